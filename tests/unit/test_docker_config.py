"""Docker's configuration file, as people's machines have it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.config import Config, load
from mirror.credentials import Credential
from mirror.credentials.credential import AZURE_USER
from mirror.credentials.docker_config import DockerConfig, server_names
from mirror.credentials.files import FileUnusable

HUB = "https://index.docker.io/v1/"


def basic(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def read(folder: Path, document: object) -> DockerConfig:
    file = folder / "config.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return DockerConfig.read(file, place="here")


@pytest.fixture
def config() -> Config:
    return load(path=None, environ={}, overrides={"upstreams.own.example:5000.endpoints": ["https://r.example/base"]})


def find(config: Config, file: DockerConfig, upstream: str) -> Credential | None:
    return file.find(server_names(config.upstreams[upstream]))


@pytest.mark.parametrize("key", [HUB, "index.docker.io", "docker.io", "https://registry-1.docker.io/v2/"])
def test_docker_hub_goes_by_many_names(tmp_path: Path, config: Config, key: str) -> None:
    found = find(config, read(tmp_path, {"auths": {key: {"auth": basic("me", "s3:cret")}}}), "docker.io")
    assert found == Credential(username="me", secret="s3:cret", place="here")
    assert find(config, read(tmp_path, {"auths": {key: {"auth": basic("me", "x")}}}), "ghcr.io") is None


@pytest.mark.parametrize(
    "key", ["own.example:5000", "https://own.example:5000", "http://own.example:5000/v2/", "r.example"]
)
def test_another_registry_goes_by_its_name_and_by_its_endpoint(tmp_path: Path, config: Config, key: str) -> None:
    assert find(config, read(tmp_path, {"auths": {key: {"username": "me", "password": "x"}}}), "own.example:5000")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": basic("me", "x\0\0")}, Credential(username="me", secret="x", place="here")),
        (
            {"auth": basic("me", ""), "identitytoken": "t0k"},
            Credential(username="me", secret="t0k", place="here", is_identity_token=True),
        ),
        ({"identitytoken": "t0k"}, Credential(username="", secret="t0k", place="here", is_identity_token=True)),
        (
            {"auth": basic(AZURE_USER, "t0k")},
            Credential(username=AZURE_USER, secret="t0k", place="here", is_identity_token=True),
        ),
        ({}, None),
        ({"auth": "!"}, None),
        ({"auth": base64.b64encode(b"\xff:x").decode()}, None),
        ({"auth": basic("", "x")}, None),
        ({"auth": 3}, None),
        ("x", None),
    ],
)
def test_an_entry_is_a_password_or_a_token_or_nothing(
    tmp_path: Path, config: Config, entry: object, expected: Credential | None
) -> None:
    assert find(config, read(tmp_path, {"auths": {"ghcr.io": entry}}), "ghcr.io") == expected


def test_a_helper_of_a_registry_wins_over_the_store_of_all(tmp_path: Path, config: Config) -> None:
    file = read(tmp_path, {"credsStore": "pass", "credHelpers": {"ghcr.io": "gh", "docker.io": "hub"}})
    assert file.find_helper(server_names(config.upstreams["ghcr.io"])) == ("gh", "ghcr.io")
    assert file.find_helper(server_names(config.upstreams["docker.io"])) == ("hub", "docker.io")
    assert file.find_helper(server_names(config.upstreams["quay.io"])) == ("pass", "quay.io")
    store = read(tmp_path, {"credsStore": "pass"})
    assert store.find_helper(server_names(config.upstreams["docker.io"])) == ("pass", HUB)


@pytest.mark.parametrize("name", ["../evil", "a b", "", "x;y", 3, None])
def test_what_cannot_be_the_end_of_a_program_s_name_is_no_helper(tmp_path: Path, name: object) -> None:
    file = read(tmp_path, {"credsStore": name, "credHelpers": {"ghcr.io": name}})
    assert file.find_helper(["ghcr.io"]) is None


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000])
def test_a_file_that_is_no_configuration_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileUnusable, match=r"^is not (JSON|a JSON object)$"):
        read(tmp_path, text)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(document=st.dictionaries(st.sampled_from(["auths", "credHelpers", "credsStore"]), json_values))
def test_any_object_is_read(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = read(tmp_path_factory.getbasetemp(), document)
    file.find(["ghcr.io"])
    file.find_helper(["ghcr.io"])


def test_a_credential_does_not_show_its_secret() -> None:
    credential = Credential(username="me", secret="s3cret", place="here")
    assert "s3cret" not in repr(credential)
    assert "s3cret" not in credential.fingerprint
    assert credential.fingerprint != Credential(username="me", secret="other", place="here").fingerprint
