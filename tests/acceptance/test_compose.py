"""The compose file's services, as local processes, carry the demo job: Redis, two workers, Flower, producer."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.compose import Stack, read_compose, seconds, words_of
from tests.environments import build_wheel, required
from tests.metrics import scrape
from tests.waiting import wait_until
from worker_config.celery_app import celery_settings
from worker_config.settings import Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SECRETS = {
    "REDIS_PASSWORD": "r3dis",
    "CELERIAC_SIGNING_KEY": "s1gn-with-more-than-thirty-two-characters",
    "FLOWER_PASSWORD": "fl0wer",
    "GRAFANA_PASSWORD": "gr4fana",
}
SERVICES: dict[str, Any] = read_compose(FILE, SECRETS)["services"]
# Images of others, which do not run here.
MONITORING = ("prometheus", "grafana")
MONITORED = ROOT / "monitoring"
WORKERS = {"celery@worker-1", "celery@worker-2"}


def make_secrets(folder: Path) -> dict[str, str]:
    """What `make secrets` writes into a folder."""
    subprocess.run([shutil.which("make") or "make", "-f", str(ROOT / "Makefile"), "secrets"], cwd=folder, check=True)
    return dict(line.split("=") for line in (folder / ".env").read_text().splitlines())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_secrets(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, made: dict[str, str]) -> Iterator[Stack]:
    """`docker compose up --scale worker=2`, until the producer has ended."""
    stack = Stack(FILE, tmp_path_factory.mktemp("stack"), {"worker": 2}, made)
    try:
        stack.up()
        stack.wait_until_ended("producer")
        yield stack
    finally:
        stack.down()


# What the running services do.


def test_the_producer_predicts_all_rows_of_the_demo_through_the_workers(stack: Stack) -> None:
    producer = stack.wait_until_ended("producer")
    told = producer.output()
    assert producer.process.returncode == 0, told
    accuracy = re.search(r"^accuracy +([\d.]+) ", told, re.MULTILINE)
    assert accuracy, told
    assert float(accuracy[1]) >= 0.95
    assert re.search(r"^ledger .*\bpredicted 1797\b", told, re.MULTILINE), told


def test_celery_itself_sees_both_workers(stack: Stack) -> None:
    answered = stack.run(
        "worker", "celery", "-A", "tasks", "inspect", "-t", "20", "-d", ",".join(WORKERS), "--json", "ping"
    )
    assert answered.returncode == 0, answered.stderr
    assert set(json.loads(answered.stdout)) == WORKERS


def test_a_workers_health_is_that_of_its_children(stack: Stack) -> None:
    kind, check = SERVICES["worker"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    told = stack.run("worker", "sh", "-c", check)
    assert told.returncode == 0, told.stdout + told.stderr
    assert re.match(r"celery@worker-1: 2 of 2 children are ready, [\d,]+ chunks done", told.stdout)


def test_flower_shows_every_chunk_in_words(stack: Stack) -> None:
    def finished() -> list[dict[str, Any]]:
        tasks = list(_ask_flower(stack, "/api/tasks").values())
        return tasks if tasks and all(task["state"] == "SUCCESS" for task in tasks) else []

    tasks = wait_until(finished, "Flower has heard of every chunk's end")
    chunks = [re.match(r"chunk (\d+) rows \d+-\d+ of job ", task["args"]) for task in tasks]
    assert {task["name"] for task in tasks} == {"celeriac.infer"}
    assert all(chunks), tasks
    # One that was late on a busy machine was sent again, and shows twice.
    # Sizes are measured while the job runs: nobody knows a total that would stay.
    shown = sorted({int(chunk[1]) for chunk in chunks if chunk})
    assert shown == list(range(len(shown)))
    assert {task["worker"] for task in tasks} <= WORKERS


def test_flower_knows_both_workers(stack: Stack) -> None:
    assert _ask_flower(stack, "/api/workers?status=true") == dict.fromkeys(WORKERS, True)


def test_flower_tells_nothing_without_its_password(stack: Stack) -> None:
    for path in ("/", "/api/tasks"):
        assert _request(stack, "GET", path, {})[0] == http.client.UNAUTHORIZED


def test_flower_changes_nothing(stack: Stack) -> None:
    path = "/api/worker/shutdown/celery@worker-1"
    assert _request(stack, "POST", path, _flower_password(stack))[0] == http.client.FORBIDDEN


def test_the_workers_metrics_have_all_rows_of_the_demo(stack: Stack) -> None:
    ports = [int(worker.environ["CELERIAC_METRICS_PORT"]) for worker in stack.containers["worker"]]

    def rows() -> float:
        return sum(scrape(port)["celeriac_worker_rows_total",] for port in ports)

    wait_until(lambda: rows() >= 1797, "all rows are counted")


def test_redis_keeps_its_queue_evicts_nothing_and_refuses_strangers(stack: Stack) -> None:
    for option, value in {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}.items():
        assert stack.run("redis", "redis-cli", "config", "get", option).stdout.split() == [option, value]
    assert "NOAUTH" in stack.run("redis", "env", "-u", "REDISCLI_AUTH", "redis-cli", "ping").stdout


def test_no_secret_is_in_the_process_list_or_in_a_log(stack: Stack, made: dict[str, str]) -> None:
    containers = [container for replicas in stack.containers.values() for container in replicas]
    for container in containers:
        shown = container.output() + " ".join(_command_lines(container.process.pid))
        assert not [name for name, secret in made.items() if secret in shown], container.name


def test_nothing_is_written_where_a_container_has_no_volume(stack: Stack) -> None:
    for name, replicas in stack.containers.items():
        for container in replicas:
            # Keras keeps its settings there if it can, and elsewhere if not.
            written = {path.name for path in stack.home(container.name).iterdir()} - {".keras"}
            assert not written, (name, written)


def test_workers_heed_what_is_signed_alone(stack: Stack) -> None:
    drain = ("celery", "-A", "tasks", "control", "-t", "20", "-d", "celery@worker-2", "drain")
    forged = stack.run("worker", "env", "-u", "CELERIAC_SIGNING_KEY", *drain)
    assert "it is not signed with a key of CELERIAC_SIGNING_KEY" in forged.stdout + forged.stderr
    assert "the worker drains" in stack.run("worker", *drain).stdout
    assert "takes chunks again" in stack.run("worker", *drain[:-1], "resume").stdout


def test_a_worker_that_is_stopped_ends_by_itself_within_its_grace_period(stack: Stack) -> None:
    workers = stack.containers["worker"]
    for worker in workers:
        # To its first process alone, as Docker does.
        os.kill(worker.process.pid, signal.SIGTERM)
    for worker in workers:
        assert worker.process.wait(seconds(SERVICES["worker"]["stop_grace_period"])) == 0, worker.output()


# What the files say.


def test_every_command_begins_with_a_program_that_exists(tmp_path: Path) -> None:
    stack = Stack(FILE, tmp_path, {}, SECRETS)
    for name, service in stack.services.items():
        assert shutil.which(words_of(service["command"])[0], path=stack.path), name


def test_workers_can_be_scaled() -> None:
    assert not {"container_name", "ports", "hostname"} & SERVICES["worker"].keys()


def test_ports_are_published_on_loopback_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_service_of_ours_runs_the_image_of_the_dockerfile_and_others_are_pinned() -> None:
    for name in ("redis", *MONITORING):
        assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[name]["image"])
    ours = [service for name, service in SERVICES.items() if name not in {"redis", *MONITORING}]
    assert {(service["image"], service["build"]) for service in ours} == {("celeriac", ".")}


def test_there_is_no_password_until_one_is_made() -> None:
    for name in SECRETS:
        with pytest.raises(KeyError, match=f"{name}: run `make secrets`"):
            read_compose(FILE, {other: secret for other, secret in SECRETS.items() if other != name})
    assert not re.findall(r"\$\{(\w*(?:PASSWORD|KEY)):-", FILE.read_text())


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    first = make_secrets(tmp_path)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert first.keys() == SECRETS.keys()
    assert len(set(first.values())) == len(first)
    assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in first.values())
    assert make_secrets(tmp_path) == first


def test_no_command_holds_a_secret() -> None:
    for service in SERVICES.values():
        said = f"{service.get('command')} {service.get('healthcheck')}"
        assert not [secret for secret in SECRETS.values() if secret in said]


def test_secrets_go_to_those_alone_that_need_them() -> None:
    holders = {
        name: {
            service
            for service, one in SERVICES.items()
            if any(secret in value for value in one.get("environment", {}).values())
        }
        for name, secret in SECRETS.items()
    }
    assert holders == {
        "REDIS_PASSWORD": {"redis", "worker", "producer", "flower"},
        "CELERIAC_SIGNING_KEY": {"worker", "producer"},
        "FLOWER_PASSWORD": {"flower"},
        "GRAFANA_PASSWORD": {"grafana"},
    }
    assert SERVICES["worker"]["environment"]["CELERIAC_BROKER_URL"] == "redis://:r3dis@redis:6379/0"


def test_what_control_may_do_can_be_said() -> None:
    assert SERVICES["worker"]["environment"]["CELERIAC_REMOTE_CONTROL"] == "all"
    services = read_compose(FILE, {**SECRETS, "CELERIAC_REMOTE_CONTROL": "off"})["services"]
    assert services["worker"]["environment"]["CELERIAC_REMOTE_CONTROL"] == "off"


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(service[limit] for limit in ("mem_limit", "cpus", "pids_limit"))
    assert not {"privileged", "cap_add", "pid", "ipc", "network_mode"} & service.keys()
    outside = "ports" in service
    assert service["networks"] == (["inside", "outside"] if outside else ["inside"])
    if service["image"] == "celeriac":
        assert "/tmp" in service["tmpfs"]  # noqa: S108 - of a container


def test_what_has_no_door_reaches_nothing_outside() -> None:
    assert read_compose(FILE, SECRETS)["networks"]["inside"] == {"internal": True}


def test_every_variable_of_ours_is_one_that_settings_read() -> None:
    asked: set[str] = set()

    class Asked(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

    Settings.from_env(Asked())
    environs = [service.get("environment", {}) for service in SERVICES.values()]
    set_here = {key for environ in environs for key in environ if key.startswith("CELERIAC_")}
    assert set_here
    assert set_here <= asked


def test_prometheus_asks_where_workers_and_producer_serve() -> None:
    scraped = {
        job["job_name"]: job for job in yaml.safe_load((MONITORED / "prometheus.yml").read_text())["scrape_configs"]
    }
    (workers,) = scraped["worker"]["dns_sd_configs"]
    environ = SERVICES["worker"]["environment"]
    assert (workers["names"], workers["type"]) == (["worker"], "A")
    assert str(workers["port"]) == environ["CELERIAC_METRICS_PORT"]
    (producer,) = scraped["producer"]["static_configs"]
    (target,) = producer["targets"]
    assert target == f"producer:{words_of(SERVICES['producer']['command'])[-1]}"
    for name in ("worker", "producer"):
        assert SERVICES[name]["environment"]["CELERIAC_METRICS_HOST"] == "0.0.0.0"  # noqa: S104 - of a container


def test_the_dashboard_asks_the_prometheus_that_is_provided_and_grafana_lets_nobody_else_in() -> None:
    (source,) = yaml.safe_load((MONITORED / "grafana/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    dashboard = json.loads((MONITORED / "grafana/dashboards/celeriac.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    (provider,) = yaml.safe_load((MONITORED / "grafana/dashboards/provider.yml").read_text())["providers"]
    grafana = SERVICES["grafana"]
    assert grafana["volumes"] == ["./monitoring/grafana:/etc/grafana/provisioning:ro"]
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert "ports" not in SERVICES["prometheus"]


def test_a_worker_is_given_longer_to_stop_than_its_chunks_to_end() -> None:
    worker = SERVICES["worker"]
    assert worker["environment"]["REMAP_SIGTERM"] == "SIGQUIT"
    assert seconds(worker["stop_grace_period"]) > celery_settings(Settings())["worker_soft_shutdown_timeout"]


def test_the_image_gets_our_packages_and_only_what_exists_and_is_not_ignored() -> None:
    lines = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    copied = {path for line in lines for path in line.split()}
    ignored, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert {"producer", "tasks", "worker_config"} <= copied
    assert all((ROOT / path).exists() for path in copied)
    assert ignored == "*"
    assert copied == {line[1:] for line in kept if line.startswith("!")}


def test_the_image_runs_as_an_ordinary_user_on_a_supported_python() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.search(r"^FROM python:(\d+\.\d+)\.\d+-slim-bookworm$", dockerfile, re.MULTILINE)
    extras = re.search(r"^ARG EXTRAS=([\w,]+)$", dockerfile, re.MULTILINE)
    assert version
    assert f">={version[1]}" == project["requires-python"]
    assert extras
    assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()
    assert dockerfile.count('".[$EXTRAS]"') == 1
    assert re.findall(r"^USER (\w+)$", dockerfile, re.MULTILINE) == ["celeriac"]


def test_the_image_for_model_sets_that_were_built_has_no_tensorflow(tmp_path: Path) -> None:
    told = [(ROOT / name).read_text() for name in ("Dockerfile", "docs/deploying.md")]
    (extras,) = {words for text in told for words in re.findall(r"--build-arg EXTRAS=([\w,]+)", text)}
    installed = required(build_wheel(tmp_path), extras.split(","))
    assert {"ai-edge-litert", "openvino", "psutil", "cryptography", "celery"} <= installed
    assert not {"tensorflow", "keras", "scikit-learn"} & installed


def _command_lines(pid: int) -> Iterator[str]:
    if psutil.pid_exists(pid):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            yield " ".join(one.cmdline())


def _flower_password(stack: Stack) -> dict[str, str]:
    credentials = stack.containers["flower"][0].environ["FLOWER_BASIC_AUTH"]
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


def _ask_flower(stack: Stack, path: str) -> Any:
    return json.loads(_request(stack, "GET", path, _flower_password(stack))[1])


def _request(stack: Stack, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Flower's status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.flower_port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
