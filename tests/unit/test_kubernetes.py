"""The files of `kubernetes/`: valid by Kubernetes' own schema, of one piece, and with commands that there are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from celery.bin.base import CLIContext
from celery.bin.worker import worker as celery_worker

from producer.cli.commands import cli
from tasks import health
from worker_config.broker import KEY_PREFIX, QUEUE
from worker_config.celery_app import celery_settings, make_app
from worker_config.errors import ExitCode
from worker_config.settings import Settings

FOLDER = Path(__file__).parents[2] / "kubernetes"
# The oldest and the newest that should take them.
VERSIONS = ["1.31", kubernetes_validate.latest_version()]
POD_OWNERS = ("Deployment", "StatefulSet", "Job")
KUSTOMIZE, KEDA = "kustomize.config.k8s.io/v1beta1", "keda.sh/v1alpha1"


def _read() -> list[dict[str, Any]]:
    return [one for file in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(file.read_text())]


ALL = _read()
OURS = [one for one in ALL if one["apiVersion"] not in (KUSTOMIZE, KEDA)]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in ALL if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pods() -> Iterator[dict[str, Any]]:
    for one in OURS:
        if "template" in one.get("spec", {}):
            yield one["spec"]["template"]["spec"]


def containers() -> Iterator[dict[str, Any]]:
    for pod in pods():
        yield from pod["containers"]


WORKER = named("Deployment", "celeriac-worker")
POD = WORKER["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("resource", OURS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kubernetes_takes_it(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_a_field_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**named("Secret", "celeriac-redis"), "passwords": {}}, VERSIONS[0], strict=True)


def test_it_goes_into_any_namespace() -> None:
    assert not [one for one in ALL if "namespace" in one.get("metadata", {})]
    names = [(one["kind"], one["metadata"]["name"]) for one in OURS]
    assert len(set(names)) == len(names)


def test_kustomize_finds_its_files_and_no_secret_that_everybody_knows() -> None:
    (kustomization,) = [one for one in ALL if one["apiVersion"] == KUSTOMIZE]
    assert all((FOLDER / name).is_file() for name in kustomization["resources"])
    assert "secret.example.yaml" not in kustomization["resources"]
    (image,) = kustomization["images"]
    assert image["name"] == "celeriac"
    (tag,) = {one["image"].partition(":")[2] for one in containers() if one["image"].startswith("celeriac:")}
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    assert image["newTag"] == tag == project["version"]


def test_every_image_is_of_one_version() -> None:
    for container in containers():
        assert re.fullmatch(r"(celeriac|redis):\d+\.\d+\.\d+", container["image"])


def test_every_container_is_confined() -> None:
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
    for container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        if container["image"].startswith("celeriac:"):
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}  # noqa: S108 - of a container


def test_the_network_lets_workers_and_producers_reach_redis_and_nobody_else_anything() -> None:
    policies = [one["spec"] for one in OURS if one["kind"] == "NetworkPolicy"]

    def apps_of(selector: dict[str, Any]) -> list[str]:
        expressions = selector.get("matchExpressions", [])
        return [selector["matchLabels"]["app"]] if "matchLabels" in selector else list(expressions[0]["values"])

    def rules(app: str, way: str) -> list[dict[str, Any]]:
        mine = [one for one in policies if app in apps_of(one["podSelector"])]
        assert any(way.capitalize() in one["policyTypes"] for one in mine), f"nothing limits the {way} of {app}"
        return [rule for one in mine for rule in one.get(way, [])]

    clients = ["celeriac-worker", "celeriac-producer"]
    pods_there = {one["spec"]["template"]["metadata"]["labels"]["app"] for one in OURS if one["kind"] in POD_OWNERS}
    assert pods_there == {"celeriac-redis", "celeriac-demo-models", *clients}
    of_keda, of_clients = rules("celeriac-redis", "ingress")
    (peer,) = of_clients["from"]
    assert apps_of(peer["podSelector"]) == clients
    namespace = {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}
    assert of_keda["from"] == [{"namespaceSelector": namespace}]
    assert [port["port"] for rule in (of_keda, of_clients) for port in rule["ports"]] == [6379, 6379]
    assert not rules("celeriac-redis", "egress")
    for app in clients:
        assert not rules(app, "ingress")
        to_redis, to_dns = rules(app, "egress")
        assert to_redis["to"] == [{"podSelector": {"matchLabels": {"app": "celeriac-redis"}}}]
        assert [one["port"] for one in (*to_redis["ports"], *to_dns["ports"])] == [6379, 53, 53]
    assert not rules("celeriac-demo-models", "ingress")
    assert not rules("celeriac-demo-models", "egress")


def test_pods_of_workers_are_moved_one_by_one() -> None:
    budget = named("PodDisruptionBudget", "celeriac-worker")["spec"]
    assert budget["selector"]["matchLabels"] == WORKER["spec"]["selector"]["matchLabels"]
    assert budget["maxUnavailable"] == 1


def test_producers_and_workers_have_the_same_signing_key() -> None:
    named_secrets = [
        one["valueFrom"]["secretKeyRef"]
        for container in containers()
        for one in container.get("env", [])
        if one["name"] == "CELERIAC_SIGNING_KEY"
    ]
    assert named_secrets == [{"name": "celeriac-signing", "key": "key"}] * 2


def test_every_secret_and_volume_that_is_named_is_there() -> None:
    keys = {one["metadata"]["name"]: set(one["stringData"]) for one in OURS if one["kind"] == "Secret"}
    claims = {one["metadata"]["name"] for one in OURS if one["kind"] == "PersistentVolumeClaim"}
    for container in containers():
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                wanted = variable["valueFrom"]["secretKeyRef"]
                assert wanted["key"] in keys[wanted["name"]]
    for pod in pods():
        volumes = pod.get("volumes", [])
        assert {
            one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one
        } <= claims
    templates = {
        one["metadata"]["name"] for one in named("StatefulSet", "celeriac-redis")["spec"]["volumeClaimTemplates"]
    }
    for pod in pods():
        mounted = {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]}
        assert mounted <= {one["name"] for one in pod.get("volumes", [])} | templates


def test_the_broker_is_the_service_in_front_of_redis_and_no_password_is_written_down() -> None:
    redis = named("StatefulSet", "celeriac-redis")["spec"]["template"]
    service = named("Service", "celeriac-redis")["spec"]
    assert service["selector"].items() <= redis["metadata"]["labels"].items()
    (port,), (container,) = service["ports"], redis["spec"]["containers"]
    (inside,) = container["ports"]
    assert port["targetPort"] == inside["name"] == container["livenessProbe"]["tcpSocket"]["port"]
    assert inside["containerPort"] == port["port"]
    urls = [
        one["value"] for name in containers() for one in name.get("env", []) if one["name"] == "CELERIAC_BROKER_URL"
    ]
    assert urls == [f"redis://:$(REDIS_PASSWORD)@celeriac-redis:{port['port']}/0"] * 2
    script = container["command"][-1]
    # Of what the shell replaces nothing but the password, which stands on no command line.
    assert re.findall(r"\$\w+", script) == ["$REDISCLI_AUTH"]
    assert "requirepass $REDISCLI_AUTH" in script.splitlines()[2]
    for line in ("appendonly yes", "maxmemory-policy noeviction"):
        assert line in script


def test_selectors_are_those_of_the_pods() -> None:
    for one in OURS:
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"]


def test_the_worker_s_command_is_one_that_celery_takes() -> None:
    (worker,) = POD["containers"]
    assert worker["command"][:4] == ["celery", "-A", "tasks", "worker"]
    told = CLIContext(app=make_app(Settings()), no_color=True, workdir=".")
    context = celery_worker.make_context("worker", worker["command"][4:], obj=told)
    assert str(context.params["concurrency"]) == worker["resources"]["requests"]["cpu"]


def test_the_worker_s_settings_are_settings() -> None:
    (worker,) = POD["containers"]
    values = {one["name"]: one["value"] for one in worker["env"] if "value" in one}
    settings = Settings.from_env({**values, "CELERIAC_BROKER_URL": "redis://celeriac-redis"})
    told = {name for name in values if name.startswith("CELERIAC_")}
    assert len(told) == sum(getattr(settings, name) != getattr(Settings(), name) for name in vars(settings))
    mounted = {mount["mountPath"] for mount in worker["volumeMounts"]} - {"/tmp"}  # noqa: S108 - of a container
    assert {str(settings.models_path.parent), str(settings.cache)} == mounted


def test_a_worker_may_end_what_it_runs_before_it_is_killed() -> None:
    (worker,) = POD["containers"]
    assert {"name": "REMAP_SIGTERM", "value": "SIGQUIT"} in worker["env"]
    soft = celery_settings(Settings())["worker_soft_shutdown_timeout"]
    assert POD["terminationGracePeriodSeconds"] >= soft + 10


def test_the_probes_are_health_s_own_and_bear_a_worker_that_waits_for_redis(capsys: pytest.CaptureFixture[str]) -> None:
    (worker,) = POD["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = worker[name]
        assert probe["exec"]["command"][:3] == ["python", "-m", "tasks.health"]
        # A word that it does not know would end it otherwise.
        assert health.main([*probe["exec"]["command"][3:], "--broker", "redis://nobody"]) == 1
        assert capsys.readouterr().out.startswith("unhealthy: no worker of this broker runs here")
    allowed = worker["startupProbe"]["periodSeconds"] * worker["startupProbe"]["failureThreshold"]
    assert allowed > Settings().load_timeout_seconds


def test_the_jobs_commands_are_ours() -> None:
    jobs = [one for one in OURS if one["kind"] == "Job"]
    assert len(jobs) == 2
    for job in jobs:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        program, name, *words = container["command"]
        assert program == "celeriac"
        command = cli.get_command(click.Context(cli), name)
        assert command.make_context(name, words).params
    (rule,) = [one for one in jobs[1]["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in one]
    given_up = {ExitCode.USAGE, ExitCode.INPUT, ExitCode.ROWS_FAILED, ExitCode.MODEL}
    assert set(rule["onExitCodes"]["values"]) == set(map(int, given_up))
    assert rule["onExitCodes"]["containerName"] == jobs[1]["spec"]["template"]["spec"]["containers"][0]["name"]


def test_keda_scales_the_workers_by_the_list_of_a_queue() -> None:
    scaled, authentication = named("ScaledObject", "celeriac-worker"), named("TriggerAuthentication", "celeriac-redis")
    assert {scaled["apiVersion"], authentication["apiVersion"]} == {KEDA}
    spec = scaled["spec"]
    assert set(spec) <= {
        "scaleTargetRef",
        "pollingInterval",
        "minReplicaCount",
        "maxReplicaCount",
        "advanced",
        "triggers",
    }
    assert spec["scaleTargetRef"] == {"name": WORKER["metadata"]["name"]}
    assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "redis"
    assert set(trigger["metadata"]) == {"address", "databaseIndex", "listName", "listLength"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["metadata"]["address"] == "celeriac-redis:6379"
    assert re.fullmatch(rf"{KEY_PREFIX}{QUEUE}\.[0-9a-f]{{12}}", trigger["metadata"]["listName"])
    # Else a job would never have more than its first worker: on the average so many chunks wait for each pod.
    children = int(POD["containers"][0]["command"][-1])
    assert int(trigger["metadata"]["listLength"]) < 2 * children - 1
    assert trigger["authenticationRef"] == {"name": authentication["metadata"]["name"]}
    (secret,) = authentication["spec"]["secretTargetRef"]
    assert secret["parameter"] == "password"
    assert secret["key"] in named("Secret", secret["name"])["stringData"]
