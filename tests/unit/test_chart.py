"""The Helm chart, as Helm renders it, and the manifests, as kustomize joins them: what a cluster would be sent."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mirror.config import Config, load
from tests.support.cluster import Cluster, unpack_programs
from tests.support.snippets import ROOT, snippet
from tests.unit.test_deploy import VERSIONS

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="helm and kubectl come for x86-64 only")

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
_CHART = _DEPLOY / "helm" / "mirror"
_KINDS = {"StatefulSet", "Service", "PodDisruptionBudget", "ConfigMap"}
_FREE = {
    "resources",
    "nodeSelector",
    "affinity",
    "podAnnotations",
    "podLabels",
    "podSecurityContext",
}  # Kubernetes's own
_DIGEST = f"sha256:{'5e' * 32}"
_SECRET = "mirror-passwords"
_EVERYTHING = f"""
image: {{repository: registry.test/own/mirror, tag: "1.20", digest: "", pullPolicy: Always}}
imagePullSecrets: [{{name: pull-secret}}]
fullnameOverride: own-name
config: |
  [log]
  level = "debug"

  [access]
  htpasswd = "/etc/passwords/htpasswd"
env: [{{name: MIRROR_CACHE__TAG_TTL, value: 3m}}]
envFrom: [{{secretRef: {{name: env-secret}}}}]
tls: {{secretName: tls-secret}}
volumes: [{{name: passwords, secret: {{secretName: {_SECRET}}}}}]
volumeMounts: [{{name: passwords, mountPath: /etc/passwords}}]
persistence: {{size: 2Ti, storageClass: fast, existingClaim: ""}}
service: {{type: LoadBalancer, port: 443, nodePort: 30999, annotations: {{example.test/pool: inside}}}}
metrics: {{port: 9199, serviceMonitor: true, interval: 77s, tlsConfig: {{serverName: mirror.test}}}}
podDisruptionBudget: {{enabled: true}}
resources: {{limits: {{memory: 3333Mi}}}}
terminationGracePeriodSeconds: 1000000
podAnnotations: {{example.test/annotated: "12"}}
podLabels: {{example.test/labelled: "yes"}}
podSecurityContext: {{runAsUser: 4711, fsGroup: 4712}}
priorityClassName: system-cluster-critical
nodeSelector: {{kubernetes.io/arch: arm64}}
tolerations: [{{key: example.test/dedicated, operator: Exists}}]
affinity: {{nodeAffinity: {{preferredDuringSchedulingIgnoredDuringExecution: [
  {{weight: 17, preference: {{matchExpressions: [{{key: example.test/disk, operator: Exists}}]}}}}]}}}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        unpack_programs(Path(folder))
        yield Cluster(programs=Path(folder), home=Path(folder))


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A file that sets each of the chart's values to something else."""
    path = tmp_path / "values.yaml"
    path.write_text(_EVERYTHING, encoding="utf-8")
    return path


def one(documents: Iterable[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    (found,) = (each for each in documents if each["kind"] == kind and name in {None, each["metadata"]["name"]})
    return found


def validate(documents: list[dict[str, Any]]) -> None:
    assert {document["kind"] for document in documents} >= _KINDS
    for document in documents:
        if document["kind"] != "ServiceMonitor":  # the Prometheus operator's own
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)


def pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = one(documents, "StatefulSet")["spec"]["template"]["spec"]
    return found


def comparable(spec: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the chart says and Kubernetes would assume, and where each has the configuration from."""
    (container,) = spec["containers"]
    container = {key: value for key, value in container.items() if key not in {"env", "imagePullPolicy"}}
    container["livenessProbe"] = {"periodSeconds": 10, **container["livenessProbe"]}
    volumes = [{**volume, "configMap": None} if "configMap" in volume else volume for volume in spec["volumes"]]
    return {**spec, "containers": [container], "volumes": volumes}


def configuration(documents: list[dict[str, Any]], folder: Path) -> Config:
    """Return what the container's command makes of its file and its environment."""
    path = folder / "mirror.toml"
    path.write_text(one(documents, "ConfigMap")["data"]["mirror.toml"], encoding="utf-8")
    (container,) = pod(documents)["containers"]
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    return load(path=path, environ=environ, overrides={})


def leaves(values: object) -> Iterator[str]:
    match values:
        case dict() if values:
            for value in values.values():
                yield from leaves(value)
        case list() if values:
            for value in values:
                yield from leaves(value)
        case _:
            yield str(values)


def test_what_the_chart_makes_by_itself_is_what_the_manifests_make(cluster: Cluster) -> None:
    charted, kustomized = cluster.rendered(_CHART), cluster.kustomized(_DEPLOY / "kubernetes")
    validate(charted)
    validate(kustomized)
    own, other = comparable(pod(charted)), comparable(pod(kustomized))
    assert own == other
    names = ("mirror", "mirror-metrics")
    for specs in ([one(documents, "Service", name)["spec"] for documents in (charted, kustomized)] for name in names):
        ports = [spec["ports"] for spec in specs]
        assert ports[0] == ports[1]
        assert specs[0].get("type") == specs[1].get("type")


def test_the_configuration_that_the_chart_makes_is_taken(cluster: Cluster, tmp_path: Path) -> None:
    documents = cluster.rendered(_CHART)
    config = configuration(documents, tmp_path)
    (container,) = pod(documents)["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(config.cache.dir) in mounts
    assert str(Path(container["args"][-1]).parent) in mounts
    listened = {getattr(address, "port", None) for address in (*config.server.listen, config.server.metrics_listen)}
    assert {port["containerPort"] for port in container["ports"]} == listened
    assert pod(documents)["terminationGracePeriodSeconds"] > config.server.shutdown_grace_seconds


def test_each_value_is_used(cluster: Cluster, everything: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((_CHART / "values.yaml").read_text(encoding="utf-8"))
    changed = yaml.safe_load(everything.read_text(encoding="utf-8"))
    assert {key: set(value) for key, value in values.items() if isinstance(value, dict) and key not in _FREE} == {
        key: set(value) for key, value in changed.items() if isinstance(value, dict) and key not in _FREE
    }
    assert values.keys() == changed.keys()
    documents = cluster.rendered(_CHART, "--values", everything)
    validate(documents)
    text = json.dumps(documents)
    for leaf in leaves({**changed, "config": None, "image": {}}):
        assert leaf in {"True", "None", "", "{}"} or leaf in text, leaf
    (container,) = pod(documents)["containers"]
    assert container["image"] == "registry.test/own/mirror:1.20"
    assert {probe["httpGet"]["scheme"] for name, probe in container.items() if name.endswith("Probe")} == {"HTTPS"}
    assert one(documents, "ServiceMonitor")["spec"]["endpoints"][0]["scheme"] == "https"
    config = configuration(documents, tmp_path)
    assert config.log.level == "debug"
    assert config.cache.tag_ttl_seconds == 180
    assert str(config.server.metrics_listen) == "0.0.0.0:9199"
    mounted = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    for path in (config.server.tls_certificate, config.server.tls_key, config.access.htpasswd):
        assert path is not None
        assert path.parent in mounted


def test_a_digest_a_claim_of_ones_own_and_a_service_for_the_cluster_alone(cluster: Cluster) -> None:
    settings = [f"image.digest={_DIGEST}", "persistence.existingClaim=cache", "service.type=ClusterIP"]
    documents = cluster.rendered(_CHART, *(f"--set={setting}" for setting in settings))
    validate(documents)
    assert pod(documents)["containers"][0]["image"] == f"registry.example.net/mirror@{_DIGEST}"
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}} in pod(documents)["volumes"]
    assert "volumeClaimTemplates" not in one(documents, "StatefulSet")["spec"]
    assert "nodePort" not in one(documents, "Service", "mirror")["spec"]["ports"][0]


def test_what_is_switched_off_is_not_there(cluster: Cluster) -> None:
    settings = ("podDisruptionBudget.enabled=false", "service.nodePort=null", "podSecurityContext.runAsUser=null")
    documents = cluster.rendered(_CHART, *(f"--set={setting}" for setting in settings))
    assert {document["kind"] for document in documents} == _KINDS - {"PodDisruptionBudget"}
    assert "nodePort" not in one(documents, "Service", "mirror")["spec"]["ports"][0]
    assert "runAsUser" not in pod(documents)["securityContext"]


def test_the_longest_name_of_a_release_fits_into_the_labels_of_its_pods(cluster: Cluster) -> None:
    documents = cluster.rendered(_CHART, release="r" * 53)
    validate(documents)
    assert len(one(documents, "StatefulSet")["metadata"]["name"]) + len("-0123456789") <= 63
    assert len(documents) == len({(each["kind"], each["metadata"]["name"]) for each in documents})


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("service.typ=NodePort", "/service': additional properties 'typ' not allowed"),
        ("metrics.port=high", "/metrics/port': got string, want integer"),
        ("metrics.port=5000", "metrics.port: 5000 is the registry's own"),
        ("config.server.workers=2", "/config': got object, want string"),
        ("persistence.size=big", "/persistence/size': 'big' does not match"),
        ("image.repository=", "/image/repository': minLength: got 0, want 1"),
        ("service.type=Nodeport", "/service/type': value must be one of"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(cluster: Cluster, setting: str, complaint: str) -> None:
    done = cluster.helm("template", "mirror", _CHART, "--set", setting)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert done.stdout == ""


def test_helm_has_nothing_against_the_chart(cluster: Cluster, everything: Path) -> None:
    done = cluster.helm("lint", "--strict", _CHART, "--values", everything)
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], '[host."http://127.0.0.1:30500"]'),
        (["tls.secretName=tls"], '[host."https://127.0.0.1:30500"]'),
        (["service.nodePort=null"], "kubectl get service mirror --namespace registries"),
        (["service.type=ClusterIP"], "mirror.registries:5000"),
    ],
)
def test_whoever_installs_it_is_told_where_it_answers(cluster: Cluster, settings: list[str], said: str) -> None:
    chosen = [f"--set={setting}" for setting in settings]
    done = cluster.helm("install", "mirror", _CHART, "--namespace", "registries", "--dry-run=client", *chosen)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout.partition("NOTES:")[2]


def test_a_cluster_takes_what_the_page_tells_to_type(cluster: Cluster) -> None:
    """There is no cluster: kubectl says what it would apply, helm what it would install."""
    apply, install = snippet("docs/install.md", "kubectl apply").text.splitlines()
    *front, folder = apply.split()
    assert front == ["kubectl", "apply", "-k"]
    validate(cluster.kustomized(ROOT / folder))
    helm, *arguments = (ROOT / word if word.startswith("deploy/") else word for word in install.split())
    assert helm == "helm"
    done = cluster.helm(*arguments, "--dry-run=client")
    assert done.returncode == 0, done.stderr
    assert "REGISTRY/mirror:" in done.stdout


@pytest.mark.parametrize("folder", ["kubernetes", "kubernetes/nodes"])
def test_kustomize_joins_what_is_there(cluster: Cluster, folder: str) -> None:
    documents = cluster.kustomized(_DEPLOY / folder)
    for document in documents:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
    maps = {each["metadata"]["name"] for each in documents if each["kind"] == "ConfigMap"}
    specs = [each["spec"]["template"]["spec"] for each in documents if each["kind"] in {"StatefulSet", "DaemonSet"}]
    named = {volume["configMap"]["name"] for spec in specs for volume in spec["volumes"] if "configMap" in volume}
    assert named == maps
    assert maps
