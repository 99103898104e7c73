"""The examples of web services: pixels give scores, and what cannot be answered has a code that says so."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from producer import Client
from tasks.protocol import keys, requests
from tests.held import held_child, holding, write_held_models
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import SIGNING, System, serving
from tests.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
# What is needed of each to test it.
FRAMEWORKS = {"fastapi": "fastapi.testclient", "flask": "flask"}
PIXELS = np.random.default_rng(0).random((1, 64), np.float32)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    entries = {"digits": str(models / "digits.keras"), **write_held_models(folder)}
    with serving(folder, write_manifest(folder, entries), 1) as system:
        yield system


Post = Callable[[Any], tuple[int, Any]]


@pytest.fixture(params=FRAMEWORKS)
def post(system: System, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Post]:
    """Sends pixels; gives the code of the answer, and what it says."""
    testing = pytest.importorskip(FRAMEWORKS[request.param], reason=f"{request.param} is not installed")
    for name, value in {"CELERIAC_BROKER_URL": system.url, **SIGNING}.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("web_example", EXAMPLES / request.param / "app.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with testing.TestClient(module.app) if request.param == "fastapi" else module.app.test_client() as web:

        def sent(pixels: Any) -> tuple[int, Any]:
            answer = web.post("/digits", json=pixels)
            return answer.status_code, json.loads(answer.text)

        yield sent
    if request.param == "flask":
        module.client.close()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_it_has_few_lines(name: str) -> None:
    _, _, text = (EXAMPLES / name / "app.py").read_text().split('"""', 2)
    lines = [line.strip() for line in text.splitlines()]
    code = [line for line in lines if line and not line.startswith(('"""', "import ", "from "))]
    assert len(code) <= 15


def test_the_pixels_of_an_image_give_its_scores(models: Path, post: Post) -> None:
    code, scores = post(PIXELS[0].tolist())
    assert code == 200, scores
    np.testing.assert_allclose([scores], in_one_process(models / "digits.keras", PIXELS), rtol=1e-5)


def test_pixels_that_do_not_fit_are_the_fault_of_who_sent_them(post: Post) -> None:
    code, told = post([1.0, 2.0])
    assert (code, "digits" in told["detail"]) == (422, True)
    for pixels in (["a"] * 64, {"pixels": [1]}, 5, [[1], [2, 3]]):
        assert post(pixels)[0] == 422, pixels


def test_what_takes_too_long_and_what_there_are_too_many_of(
    system: System, client: Client, post: Post, server: redis.Redis
) -> None:
    post(PIXELS[0].tolist())
    with ThreadPoolExecutor(1) as callers, holding(system.folder, -1.0):
        held = callers.submit(client.predict, "held", np.float32([[-1]]))
        wait_until(lambda: held_child(system.folder), "the child is held")
        code, told = post(PIXELS[0].tolist())
        assert (code, told["detail"][:14]) == (504, "no answer from")
        waiting = keys.requests(system.slots()[0].queue)
        server.rpush(waiting, *[b"0 x g 1 1 nobody\n"] * requests.MAX_WAITING)
        code, told = post(PIXELS[0].tolist())
        assert (code, told["detail"][:30]) == (503, "10000 requests for model digit")
    held.result(60)
    wait_until(lambda: post(PIXELS[0].tolist())[0] == 200, "it answers again")
