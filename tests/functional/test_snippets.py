"""What README.md and docs/ tell to type or to write down is typed and written down, against a real mirror.

Names that stand for a reader's own are replaced: `mirror.example.net:5000` by the mirror of the test, files below
`/etc`, `/run` and `/var` by files of the test, a registry by the test's own.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from mirror.config import load
from mirror.credentials.sources import CredentialSources
from mirror.web.htpasswd import Htpasswd
from tests.support.collector import Collector
from tests.support.commands import run_command
from tests.support.images import oci_index
from tests.support.mirrors import MirrorProcess
from tests.support.ports import end_process, free_port, start_process, wait_for_port
from tests.support.process import RegistryProcess
from tests.support.snippets import MIRROR, ROOT, Snippet, run_shell, snippet

ALPINE, GHCR = oci_index(71, layers=1), oci_index(72, layers=1)
TOKEN = "an-admin-token-of-some-length"
HUB = "MIRROR_UPSTREAMS__DOCKER_IO__ENDPOINTS"
OFFLINE = {"MIRROR_CACHE__OFFLINE": "true"}
_ROW = re.compile(r"\S+/\S+:\S+ +sha256:[0-9a-f]{12} +[\d.]+ \w+ +(?:just now|\d+ \w+ ago)(?: +yes)?")
_DAMAGED = re.compile(r"sha256:[0-9a-f]{64}  [\d.]+ \w+  \S+/\S+  \(removed; it is fetched again when somebody asks\)")
_COUNT = re.compile(r"\d+ files, [\d.]+ \w+: 1 damaged")


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        for tag in ("latest", "3.20"):
            started.add("library/alpine", tag, ALPINE)
        started.add("owner/name", "1", GHCR)
        yield started


@pytest.fixture(scope="module")
def mirror(registry: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorProcess]:
    """Return a mirror that has two images."""
    token = tmp_path_factory.mktemp("admin") / "token"
    token.write_text(TOKEN)
    extra = f'[access]\nadmin_token_file = "{token}"\n[cache]\nverify = false\n'  # it would find the damage first
    urls = dict.fromkeys(("docker.io", "ghcr.io"), registry.base_url)
    with MirrorProcess(urls, extra=extra) as running:
        run_shell("mirror warm alpine:3.20 ghcr.io/owner/name:1; mirror pin alpine:3.20", running.folder, of(running))
        yield running


def of(mirror: MirrorProcess) -> dict[str, str]:
    """Return what makes commands find a mirror and its cache."""
    return {
        "MIRROR_CONFIG": str(mirror.folder / "mirror.toml"),
        "MIRROR_CACHE__DIR": str(mirror.cache_folder),
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder in which ``.venv`` and ``requirements`` are, as in the repository."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "requirements").symlink_to(ROOT / "requirements")
    return folder


# --- certificates and passwords


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        (snippet("README.md", ".venv/bin/mirror cert mirror.example.net"), ["mirror.example.net"]),
        (snippet("docs/security.md", "mirror cert mirror.example.net 10.1.2.3"), ["mirror.example.net", "10.1.2.3"]),
    ],
    ids=str,
)
def test_a_certificate_for_the_names_is_made(shown: Snippet, names: list[str], checkout: Path) -> None:
    assert "ca.crt" in run_shell(shown.text, checkout)
    made = checkout / "mirror-certs"
    ssl.create_default_context(cafile=made / "ca.crt").load_cert_chain(made / "server.crt", made / "server.key")
    certificate = x509.load_pem_x509_certificate((made / "server.crt").read_bytes())
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in alternatives] == names


def test_a_password_file_is_made_that_the_mirror_takes(tmp_path: Path) -> None:
    shown = snippet("docs/security.md", "htpasswd")
    typed = shown.replaced({"/etc/mirror": str(tmp_path)}).split()
    process, terminal = pty.fork()
    if process == 0:
        os.execvp(typed[0], typed)  # noqa: S606 - it asks at its terminal
    for _ in range(2):
        while not os.read(terminal, 1000).rstrip().endswith(b"password:"):
            pass
        os.write(terminal, b"secret\n")
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    os.close(terminal)
    environment = {**OFFLINE, "MIRROR_ACCESS__HTPASSWD": str(tmp_path / "htpasswd")}
    assert run_command("check", folder=tmp_path, environment=environment).code == 0
    assert (tmp_path / "htpasswd").read_text().startswith("ann:$2y$")


def test_a_login_is_checked_and_stored(tmp_path: Path) -> None:
    shown = snippet("docs/registries.md", "cat TOKEN.txt | mirror login")
    (tmp_path / "TOKEN.txt").write_text("secret\n")
    with RegistryProcess(settings={"auth": "basic", "users": {"me": "secret"}}) as private:
        environment = {"MIRROR_UPSTREAMS__GHCR_IO__ENDPOINTS": private.base_url}
        run_shell(shown.text, tmp_path, environment)
        assert private.requests
    stored = json.loads((tmp_path / "mirror-cache" / "credentials.json").read_text())
    assert list(stored["auths"]) == ["ghcr.io"]


# --- configuration


def place(folder: Path, text: str) -> str:
    """Put files where a configuration has some, below a folder, and return the configuration that names these."""
    ca = folder / "mirror-certs" / "ca.crt"
    for path in re.findall(r'"(/(?:etc|run)/[^"]+)"', text):
        here = folder / path.lstrip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".pem"):
            run_shell("mirror cert", folder)
            shutil.copy(ca, here)
        elif path.endswith("htpasswd"):
            run_shell(f"htpasswd -bBc {here} ann secret 2>&1", folder)
        else:
            here.write_text("secret\n")
            here.chmod(0o600)
    return re.sub(r'"/(etc|run|var)/', rf'"{folder}/\1/', text)


@pytest.mark.parametrize(
    "shown",
    [
        snippet("docs/configuration.md", "[server]"),
        snippet("docs/registries.md", '[upstreams."ghcr.io"]'),
        snippet("docs/registries.md", '[upstreams."registry.example.net"]'),
        snippet("docs/registries.md", '[upstreams."europe-docker.pkg.dev"]'),
        snippet("docs/registries.md", '[upstreams."123456789012.dkr.ecr.eu-west-1.amazonaws.com"]'),
        snippet("docs/registries.md", '[upstreams."registry.example.com"]'),
    ],
    ids=str,
)
def test_a_configuration_is_valid(shown: Snippet, tmp_path: Path) -> None:
    path = tmp_path / "mirror.toml"
    path.write_text(place(tmp_path, shown.text), encoding="utf-8")
    config = load(path=path, environ={}, overrides={})
    assert (Htpasswd.of(config.access) is None) == (config.access.htpasswd is None)
    CredentialSources(config, time.time)  # reads the passwords


def test_variables_are_settings(tmp_path: Path) -> None:
    shown = snippet("docs/configuration.md", "MIRROR_CACHE__DIR=")
    (tmp_path / "hub").write_text("secret")
    port = free_port()
    changes = {
        "0.0.0.0:5000": f"127.0.0.1:{port}",
        "/run/secrets/hub": f"{tmp_path}/hub",
        "/var/cache/mirror": f"{tmp_path}/cache",
        "/run/mirror": f"{tmp_path}/mirror",
    }
    script = f"set -a\n{shown.replaced(changes)}exec mirror serve"
    process = start_process(
        ["bash", "-c", script],
        output=subprocess.DEVNULL,
        environment={**os.environ, **OFFLINE, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        folder=tmp_path,
    )
    try:
        wait_for_port(port, process=process)
        assert (tmp_path / "mirror.sock").is_socket()
        assert (tmp_path / "cache" / "control.sock").is_socket()
    finally:
        end_process(process)


def test_a_misspelt_setting_is_named_as_the_page_says(tmp_path: Path) -> None:
    shown = snippet("docs/configuration.md", "mirror.toml: cache.tag_tll")
    (tmp_path / "mirror.toml").write_text('[cache]\ntag_tll = "5m"\n')
    done = run_command("check", folder=tmp_path)
    assert done.code != 0
    assert shown.text.strip() in done.err


# --- the cache


def keys_of(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the shape of JSON: its keys, and that of a list's first element."""
    match value:
        case dict():
            return {name: keys_of(member) for name, member in value.items()}
        case [first, *_]:
            return [keys_of(first)]
        case _:
            return type(value).__name__


def test_what_is_stored_is_listed_in_the_form_that_the_page_shows(mirror: MirrorProcess, tmp_path: Path) -> None:
    shown = snippet("docs/commands.md", "$ mirror ls")
    command, header, *rows = shown.text.splitlines()
    printed_header, *printed = run_shell(command.removeprefix("$ "), tmp_path, of(mirror)).splitlines()
    assert header.split() == printed_header.split()
    assert len(printed) == len(rows)
    assert [row for row in (*rows, *printed) if not _ROW.fullmatch(row.rstrip())] == []


def test_json_has_the_members_that_the_page_shows(mirror: MirrorProcess, tmp_path: Path) -> None:
    shown = snippet(
        "docs/commands.md",
        '{"repositories"',
    )
    printed = json.loads(run_shell("mirror ls docker.io/library/alpine --json", tmp_path, of(mirror)))
    assert keys_of(json.loads(shown.text)) == keys_of(printed)


def test_a_pin_is_made_over_the_network(mirror: MirrorProcess, tmp_path: Path) -> None:
    shown = snippet(
        "docs/commands.md",
        'curl -H "Authorization: Bearer $TOKEN"',
    )
    answer = run_shell(shown.replaced({f"https://{MIRROR}": mirror.base_url}), tmp_path, {"TOKEN": TOKEN})
    assert "result" in json.loads(answer.splitlines()[-1])


def test_the_mirror_says_how_it_answers(mirror: MirrorProcess, tmp_path: Path) -> None:
    shown = snippet("docs/clients.md", "curl -sI")
    answer = run_shell(shown.replaced({MIRROR: mirror.host}), tmp_path)
    assert answer.startswith("HTTP/1.1 200")
    assert "Cache-Status: mirror; " in answer


def test_damage_is_told_in_the_form_that_the_page_shows(mirror: MirrorProcess, tmp_path: Path) -> None:
    shown = snippet("docs/damage.md", "$ mirror verify")
    layer = ALPINE.images[0].layers[0].digest.partition(":")[2]
    path = mirror.cache_folder / "blobs" / "sha256" / layer[:2] / layer
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    command, *lines = shown.text.splitlines()
    done = run_shell(f"{command.removeprefix('$ ')} || test $? = 1", tmp_path, of(mirror)).splitlines()
    for told in (lines, done):
        assert _DAMAGED.fullmatch(told[0])
        assert _COUNT.fullmatch(told[-1])


# --- carrying


def test_images_are_carried(registry: RegistryProcess, tmp_path: Path) -> None:
    shown = snippet(
        "docs/carrying.md",
        "mirror warm",
    )
    *here, there = shown.text.splitlines()
    (tmp_path / "images.txt").write_text("alpine:3.20\n")
    run_shell("\n".join(here), tmp_path, {HUB: registry.base_url})
    other = tmp_path / "there"
    other.mkdir()
    shutil.move(tmp_path / "images.tar", other)
    run_shell(there, other, OFFLINE)
    assert "docker.io/library/alpine:3.20" in run_shell("mirror ls", other, OFFLINE)


def test_an_image_that_skopeo_has_written_is_imported(registry: RegistryProcess, tmp_path: Path) -> None:
    shown = snippet("docs/carrying.md", "skopeo copy")
    conf = tmp_path / ".config" / "containers" / "registries.conf"
    conf.parent.mkdir(parents=True)
    hub = registry.base_url.removeprefix("http://")
    conf.write_text(f'[[registry]]\nprefix = "docker.io"\nlocation = "{hub}"\ninsecure = true\n', encoding="utf-8")
    run_shell(shown.text, tmp_path, OFFLINE)
    assert "docker.io/library/alpine:3.20" in run_shell("mirror ls", tmp_path, OFFLINE)


def test_the_cache_folder_has_what_the_drawing_says(mirror: MirrorProcess) -> None:
    shown = snippet("docs/architecture.md", "<cache.dir>/")
    drawn = {re.split(r"[/ ,]", line[4:])[0] for line in shown.text.splitlines()[1:]}
    there = {path.name.removesuffix("-wal").removesuffix("-shm") for path in mirror.cache_folder.iterdir()}  # SQLite's
    assert there == drawn


# --- installing


def test_traces_are_switched_on(registry: RegistryProcess, checkout: Path) -> None:
    shown = snippet("docs/metrics.md", ".venv/bin/pip install")
    port = free_port()
    with Collector() as collector:
        soon = collector.environment
        endpoint = soon.pop("OTEL_EXPORTER_OTLP_ENDPOINT")  # the page says where to
        install, serve = shown.replaced({"http://collector.example.net:4318": endpoint}).splitlines()
        run_shell(install, checkout)
        process = start_process(
            ["bash", "-c", f"{serve} --listen 127.0.0.1:{port}"],
            output=subprocess.DEVNULL,
            environment={**os.environ, **soon, HUB: registry.base_url},
            folder=checkout,
        )
        try:
            wait_for_port(port, process=process)
            run_shell(f"curl -sI http://127.0.0.1:{port}/v2/library/alpine/manifests/latest", checkout)
            collector.named("HEAD manifest", "library/alpine")
        finally:
            end_process(process)


def installed_already(folder: Path) -> Path:
    """Return a folder in which pip finds all but the mirror: it is downloaded by the test of a fresh clone."""
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("mirror-", "__editable__", "pip")):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.timeout(180)  # four times pip
def test_it_is_installed_for_systemd(tmp_path: Path) -> None:
    """All but the start of the service, which is for a machine that systemd runs."""
    shown = snippet("docs/install.md", "python3 -m venv /opt/mirror")
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "docs", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    script = shown.replaced({"/opt/": f"{tmp_path}/opt/", "/etc/": f"{tmp_path}/etc/"})
    script = script.replace("systemctl daemon-reload\n", "").replace(
        "systemctl enable --now", f"systemctl --root={tmp_path} enable"
    )
    found = {"PYTHONPATH": str(installed_already(tmp_path / "site")), "PIP_NO_COMPILE": "1"}
    run_shell(script, checkout, found, longest_seconds=150.0)
    installed = tmp_path / "opt" / "mirror" / "bin" / "mirror"
    run_shell(f"{installed} check --config {tmp_path}/etc/mirror/mirror.toml", tmp_path, OFFLINE | found)
    units = tmp_path / "etc" / "systemd" / "system"
    assert (units / "sockets.target.wants" / "mirror.socket").is_symlink()
    assert (units / "multi-user.target.wants" / "mirror.service").is_symlink()
