"""What the commands ask of the socket, over TCP, by who shows the admin token."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ask
from tests.support.images import oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

TOKEN, OTHER = "one-admin-token-of-some-length", "another-admin-token-as-long-as-that"
IMAGE = oci_image(1, layers=1)


def post(
    mirror: MirrorProcess, path: str, token: str | None, body: str = "", method: str = "POST"
) -> tuple[int, dict[str, str], list[Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", mirror.port, timeout=30)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, dict(response.getheaders()), [json.loads(line) for line in content.splitlines()]


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("admin") / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture(scope="module")
def mirror(token_file: Path) -> Iterator[MirrorProcess]:
    extra = f'[access]\nadmin_token_file = "{token_file}"\n'
    with RegistryProcess() as registry:
        registry.add("library/app", "1", IMAGE)
        with MirrorProcess({"docker.io": registry.base_url}, workers=2, extra=extra) as running:
            assert running.request("/v2/library/app/manifests/1").status == 200
            yield running


def test_who_shows_the_token_may_look_and_change(mirror: MirrorProcess) -> None:
    status, headers, (line,) = post(mirror, "/admin/v1/pin", TOKEN, '{"image": "app:1"}')
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    assert line == {"result": {"image": "docker.io/library/app:1", "digest": IMAGE.digest}}
    status, _, lines = post(mirror, "/admin/v1/ls", TOKEN)
    assert (status, [list(line) for line in lines]) == (200, [["progress"], ["result"]])
    assert post(mirror, "/admin/v1/unpin", TOKEN, '{"image": "app:1"}')[0] == 200
    (first, *_) = [event for event in mirror.events() if event["event"] == "cache.changed"]
    assert (first["operation"], first["by"]) == ("pin", "client 127.0.0.1")
    assert TOKEN not in mirror.log_path.read_text()


@pytest.mark.parametrize("token", [None, "", OTHER, TOKEN[:-1], TOKEN + "x", "Basic " + TOKEN])
def test_without_it_nothing_is_done(mirror: MirrorProcess, token: str | None) -> None:
    status, headers, (line,) = post(mirror, "/admin/v1/rm", token, '{"image": "app:1"}')
    assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="mirror"')
    assert "admin token" in line["error"]
    assert mirror.request("/v2/library/app/manifests/1").status == 200


def test_what_makes_no_sense_is_said(mirror: MirrorProcess) -> None:
    assert post(mirror, "/admin/v1/nothing", TOKEN)[0] == 404
    assert post(mirror, "/admin/v1/pin", TOKEN, "{")[0] == 400
    assert post(mirror, "/admin/v1/pin", TOKEN, '{"image": "ghcr.io/owner/name"}')[0] == 404
    assert post(mirror, "/admin/v1/status", TOKEN, method="GET")[0] == 405


def test_a_new_token_counts_at_once_and_none_when_the_file_is_gone(mirror: MirrorProcess, token_file: Path) -> None:
    try:
        token_file.write_text(OTHER)
        assert [post(mirror, "/admin/v1/status", token)[0] for token in (TOKEN, OTHER)] == [401, 200]
        token_file.unlink()
        assert [post(mirror, "/admin/v1/status", token)[0] for token in (TOKEN, OTHER, "")] == [401, 401, 401]
    finally:
        token_file.write_text(TOKEN)
    assert post(mirror, "/admin/v1/status", TOKEN)[0] == 200


def test_without_the_setting_there_is_no_such_path() -> None:
    with MirrorProcess({"docker.io": "http://127.0.0.1:1"}) as mirror:
        for method in ("GET", "POST"):
            status, _, (document,) = post(mirror, "/admin/v1/status", TOKEN, method=method)
            assert status == 404
            assert "access.admin_token_file" in document["errors"][0]["message"]


def test_a_file_without_a_token_stops_the_start(token_file: Path) -> None:
    with MirrorProcess({"docker.io": "http://127.0.0.1:1"}) as mirror:
        short = token_file.with_name("short")
        short.write_text("short")
        config = mirror.folder / "mirror.toml"
        config.write_text(config.read_text() + f'[access]\nadmin_token_file = "{short}"\n')
        failed = ask(mirror, "serve")
    assert (failed.code, failed.out) == (2, "")
    assert failed.err == (f"mirror: access.admin_token_file: {short} does not hold one line of 16 characters or more\n")
