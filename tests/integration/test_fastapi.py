"""The example for FastAPI: pixels give scores, and what cannot be answered has a code that says so."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import redis
from fastapi.testclient import TestClient

from producer import Client
from tasks.protocol import keys, requests
from tests.held import held_child, holding, write_held_models
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import SIGNING, System, serving
from tests.waiting import wait_until

APP = Path(__file__).parents[2] / "examples" / "fastapi" / "app.py"
PIXELS = np.random.default_rng(0).random((1, 64), np.float32)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    entries = {"digits": str(models / "digits.keras"), **write_held_models(folder)}
    with serving(folder, write_manifest(folder, entries), 1) as system:
        yield system


@pytest.fixture
def web(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    for name, value in {"CELERIAC_BROKER_URL": system.url, **SIGNING}.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("fastapi_example", APP)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with TestClient(module.app) as web:
        yield web


def test_it_has_few_lines() -> None:
    lines = [line.strip() for line in APP.read_text().rpartition("from contextlib")[2].splitlines()]
    assert len([line for line in lines if line and not line.startswith('"""')]) <= 15


def test_the_pixels_of_an_image_give_its_scores(models: Path, web: TestClient) -> None:
    answer = web.post("/digits", json=PIXELS[0].tolist())
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose([answer.json()], in_one_process(models / "digits.keras", PIXELS), rtol=1e-5)


def test_pixels_that_do_not_fit_are_the_fault_of_who_sent_them(web: TestClient) -> None:
    answer = web.post("/digits", json=[1.0, 2.0])
    assert (answer.status_code, "digits" in answer.json()["detail"]) == (422, True)


def test_what_takes_too_long_and_what_there_are_too_many_of(
    system: System, client: Client, web: TestClient, server: redis.Redis
) -> None:
    web.post("/digits", json=PIXELS[0].tolist())
    with ThreadPoolExecutor(1) as callers, holding(system.folder, -1.0):
        held = callers.submit(client.predict, "held", np.float32([[-1]]))
        wait_until(lambda: held_child(system.folder), "the child is held")
        late = web.post("/digits", json=PIXELS[0].tolist())
        assert (late.status_code, late.json()["detail"][:24]) == (504, "no answer from digits wi")
        waiting = keys.requests(system.slots()[0].queue)
        server.rpush(waiting, *[b"0 x g 1 1 nobody\n"] * requests.MAX_WAITING)
        busy = web.post("/digits", json=PIXELS[0].tolist())
        assert (busy.status_code, busy.json()["detail"][:30]) == (503, "10000 requests for model digit")
    held.result(60)
    wait_until(lambda: web.post("/digits", json=PIXELS[0].tolist()).status_code == 200, "it answers again")
