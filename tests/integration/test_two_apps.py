"""A user's Celery app and ours in one process: neither changes the other, nor what else the process has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import foreign
from tests.manifests import write_manifest
from tests.systems import SIGNING, System, serving

# What the process of a user is before and after ours has done all that it does in it.
PROCESS = """
import json, logging, os, sys
import celery, celery.signals, kombu.serialization, kombu.transport.redis, redis, redis.sentinel
from celery import Celery, _state, shared_task
from redis._parsers.base import BaseParser

theirs = Celery("shop", set_as_current=False)
theirs.conf.update(broker_url="redis://shop/7", task_serializer="yaml", accept_content=["yaml"], timezone="Europe/Rome",
                   task_routes={"shop.*": {"queue": "shop"}}, broker_transport_options={"global_keyprefix": "shop"})
bound = []

class OfShop(celery.Task):
    @classmethod
    def on_bound(cls, app):
        bound.append(app.main)

@theirs.task(name="shop.pay", base=OfShop)
def pay(): pass

@shared_task(name="shop.shared", base=OfShop)
def shared(): pass

theirs.finalize()


def world():
    known = kombu.serialization.registry
    signals = {name: one for name, one in vars(celery.signals).items() if hasattr(one, "receivers")}
    return {
        "current": str(_state._tls.current_app), "default": str(_state.default_app),
        "settings": {name: repr(value) for name, value in theirs.conf.table().items()},
        "tasks": sorted(theirs.tasks),
        "serializers": [sorted(one) for one in (known._encoders, known._decoders, known._disabled_content_types)],
        "transports": repr(kombu.transport.TRANSPORT_ALIASES),
        "signals": {name: len(one.receivers or ()) for name, one in signals.items()},
        "loggers": {name: (logging.getLogger(name).level, len(logging.getLogger(name).handlers))
                    for name in ("root", "", "celery", "celery.task", "kombu", "redis")},
        "redis errors": repr(BaseParser.EXCEPTION_CLASSES),
        "queues of kombu": repr([kombu.transport.redis.QoS.ack, kombu.transport.redis.QoS.reject]),
        "environment": dict(os.environ), "path": list(sys.path), "bound": list(bound),
    }


before = world()
from producer import Client
from worker_config.celery_app import make_app
from worker_config.settings import Settings

with Client() as client:
    job = client.submit("doubled", [[1.0], [2.0]])
    assert job.result().tolist() == [[2.0], [4.0]]
    job_id = client.submit("doubled", [[3.0]], detach=True)
    assert client.attach(job_id).result().tolist() == [[6.0]]
ours = make_app(Settings.from_env())
alone = world()
import producer.celery
with_task = world()
print(json.dumps({
    "changed": [name for name in before if alone[name] != before[name]],
    "changed by the task": [name for name in before if with_task[name] != before[name]],
    "new tasks": sorted(set(with_task["tasks"]) - set(before["tasks"])),
    "new signals": [name for name in before["signals"] if with_task["signals"][name] != before["signals"][name]],
    "our tasks": [name for name in ours.tasks if not name.startswith("celery.")],
    "our broker": ours.conf.broker_url, "our serializer": ours.conf.task_serializer,
    "bound to": sorted(set(bound)), "tensorflow": "tensorflow" in sys.modules,
}))
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "doubling.py").write_text("def doubled(rows):\n    return rows * 2\n")
    (folder / "shop").mkdir()
    (folder / "shop" / "celeryconfig.py").write_text("task_default_queue = 'shop'\n")
    (folder / "shop" / "loaders.py").write_text("from celery.loaders.app import AppLoader as Loader\n")
    with serving(folder, write_manifest(folder, {"doubled": "doubling:doubled"}), 1) as system:
        yield system


@pytest.mark.parametrize("environ", [{}, foreign.CELERY], ids=["plain", "with Celery's own variables"])
def test_neither_app_changes_the_other(system: System, environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS],
        cwd=system.folder,
        env={**os.environ, **SIGNING, **environ, "CELERIAC_BROKER_URL": system.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert str(system.redis.folder if not system.redis.secured else "rediss") in told.pop("our broker")
    assert told == {
        "changed": [],
        "changed by the task": ["tasks", "signals"],
        "new tasks": ["celeriac.predict_job"],
        "new signals": ["task_failure", "task_revoked"],
        "our tasks": [],
        "our serializer": "msgpack",
        "bound to": ["shop"],
        "tensorflow": False,
    }
