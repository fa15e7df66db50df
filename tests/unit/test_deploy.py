"""What `deploy/` ships is what Kubernetes, compose and the clients take; it keeps to what it promises."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mirror.config import load
from tests.support.snippets import ROOT, snippet

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
_KUBERNETES = _DEPLOY / "kubernetes"
VERSIONS = ("1.30", "1.37")
_OPERATORS = {"ServiceMonitor", "Kustomization"}  # kinds that are not Kubernetes's own


def documents(page: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(page.read_text(encoding="utf-8"))


def manifests() -> Iterator[tuple[Path, dict[str, Any]]]:
    for page in sorted(_KUBERNETES.rglob("*.yaml")):
        for document in documents(page):
            yield page, document


@pytest.mark.parametrize("version", VERSIONS)
def test_each_manifest_is_valid(version: str) -> None:
    checked = [document for _, document in manifests() if document["kind"] not in _OPERATORS]
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)
    assert {document["kind"] for document in checked} >= {"StatefulSet", "Service", "PodDisruptionBudget", "DaemonSet"}


def test_each_manifest_is_in_a_kustomization_and_each_named_file_is_there() -> None:
    for page in _KUBERNETES.rglob("kustomization.yaml"):
        (kustomization,) = documents(page)
        resources = set(kustomization["resources"])
        files = {name for one in kustomization["configMapGenerator"] for name in one["files"]}
        assert all((page.parent / name).is_file() for name in resources | files)
        optional = set(re.findall(r"^  # - (\S+)$", page.read_text(), re.MULTILINE))
        others = {other.name for other in page.parent.glob("*.yaml")} - {page.name}
        assert others == resources | optional


def test_the_pod_is_nobody_in_particular_and_is_given_time_to_end() -> None:
    (document,) = documents(_KUBERNETES / "statefulset.yaml")
    pod = document["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    config = load(path=_KUBERNETES / "mirror.toml", environ={}, overrides={})
    assert pod["terminationGracePeriodSeconds"] > config.server.shutdown_grace_seconds
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(config.cache.dir) in mounts
    ports = {port["containerPort"] for port in container["ports"]}
    listened = {getattr(address, "port", None) for address in (*config.server.listen, config.server.metrics_listen)}
    assert ports == listened


def test_the_nodes_are_told_the_port_that_the_service_has() -> None:
    pulls, _ = documents(_KUBERNETES / "service.yaml")
    hosts = tomllib.loads((_KUBERNETES / "nodes" / "hosts.toml").read_text())["host"]
    assert list(hosts) == [f"http://127.0.0.1:{pulls['spec']['ports'][0]['nodePort']}"]


def test_compose_understands_its_file() -> None:
    shown = snippet("docs/install.md", "docker compose")
    *front, up, detached = shown.replaced({"docker compose": "docker-compose"}).split()
    assert (up, detached) == ("up", "-d")
    command = [*front, "config"]  # all that can be done where its images cannot be fetched
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}, cwd=ROOT
    )
    services = yaml.safe_load(done.stdout)["services"]
    assert sorted(services) == ["grafana", "mirror", "prometheus"]
    mounted = [volume for one in services.values() for volume in one["volumes"] if volume.startswith("/")]
    assert mounted
    assert all(Path(volume.partition(":")[0]).exists() for volume in mounted)
    load(path=_DEPLOY / "compose" / "config" / "mirror.toml", environ={}, overrides={})


def test_an_image_can_be_built_with_traces_and_is_the_same_otherwise() -> None:
    dockerfile = (_DEPLOY / "Dockerfile").read_text()
    chosen = re.findall(r"REQUIREMENTS=(requirements/\S+)", dockerfile)
    assert chosen == ["requirements/traces.txt", "requirements/runtime.txt"]
    with_traces, usual = (set(re.findall(r"^(\S+==\S+)", (ROOT / path).read_text(), re.MULTILINE)) for path in chosen)
    assert usual < with_traces
    assert any(pin.startswith("opentelemetry-sdk==") for pin in with_traces)


def test_the_examples_are_in_their_formats() -> None:
    runner = tomllib.loads((_DEPLOY / "examples" / "gitlab-runner.toml").read_text())
    assert "--registry-mirror" in json.dumps(runner)
    buildkit = tomllib.loads((_DEPLOY / "examples" / "buildkitd.toml").read_text())
    assert buildkit["registry"]["docker.io"]["mirrors"] == ["mirror.example.net:5000"]
    (controller,) = documents(_DEPLOY / "examples" / "actions-runner-controller.yaml")
    dind = next(one for one in controller["template"]["spec"]["containers"] if one["name"] == "dind")
    assert any(argument.startswith("--registry-mirror=") for argument in dind["args"])
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runner"}, "spec": controller["template"]["spec"]}
    kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)
