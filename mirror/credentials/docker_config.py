"""Docker's ``config.json``: credentials by registry, and the programs that know more of them.

`mirror login` keeps its own in the same form. Registries are named in several ways there; see `server_names`.

Source: https://github.com/docker/cli/blob/v28.0.0/cli/config/configfile/file.go
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from mirror.credentials.credential import AZURE_USER, Credential
from mirror.credentials.files import FileUnusable, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mirror.config import UpstreamConfig

HUB_SERVER: Final = "https://index.docker.io/v1/"
"""What Docker calls Docker Hub wherever it keeps a credential for it."""

_HUB: Final = "docker.io"
_HUB_HOSTS: Final = ("index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER: Final = re.compile(r"[A-Za-z0-9._-]+")
_SCHEME: Final = re.compile(r"\Ahttps?://")


def server_names(upstream: UpstreamConfig) -> list[str]:
    """Return what an upstream may be called in such a file, the likeliest first."""
    hosts = [_host_of(endpoint) for endpoint in upstream.endpoints]
    names = [HUB_SERVER, *_HUB_HOSTS] if upstream.name == _HUB else [upstream.name]
    return list(dict.fromkeys([*names, *hosts]))


def _host_of(server: str) -> str:
    return _SCHEME.sub("", server).partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerConfig:
    """What such a file says; a helper is the end of a program's name, ``docker-credential-NAME``."""

    auths: Mapping[str, Credential] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    store: str | None = None

    @classmethod
    def read(cls, path: Path, *, place: str) -> Self:
        """Read a file.

        Raises:
            FileUnusable: it is no such file; single entries that make no sense are left out.
        """
        document = read_document(path)
        auths = {}
        for server, entry in _object(document.get("auths")).items():
            credential = _credential(_object(entry), place)
            if credential is not None:
                auths[server] = credential
        helpers = {server: name for server, name in _object(document.get("credHelpers")).items() if _is_helper(name)}
        store = document.get("credsStore")
        return cls(auths=auths, helpers=helpers, store=store if _is_helper(store) else None)

    def find(self, names: Sequence[str]) -> Credential | None:
        """Return the credential of a registry that has these names."""
        hosts = {_host_of(server): credential for server, credential in self.auths.items()}
        found = (self.auths.get(name) or hosts.get(_host_of(name)) for name in names)
        return next((credential for credential in found if credential is not None), None)

    def find_helper(self, names: Sequence[str]) -> tuple[str, str] | None:
        """Return the program to ask for a registry, and what the registry is called when it is asked."""
        for name in names:
            if name in self.helpers:
                return self.helpers[name], name
        return None if self.store is None else (self.store, names[0])


def read_document(path: Path) -> dict[str, Any]:
    """Return such a file as JSON; an empty one is an empty object.

    Raises:
        FileUnusable: it cannot be read, or is no JSON object.
    """
    try:
        document = json.loads(read_text(path) or "{}")
    except (ValueError, RecursionError):
        raise FileUnusable("is not JSON") from None  # the error holds the content
    if not isinstance(document, dict):
        raise FileUnusable("is not a JSON object")
    return document


def entry_of(credential: Credential) -> dict[str, str]:
    """Return a credential in the form of an entry below ``auths``."""
    pair = f"{credential.username}:{credential.secret}"
    return {"auth": base64.b64encode(pair.encode()).decode()}


def _credential(entry: Mapping[str, Any], place: str) -> Credential | None:
    token = entry.get("identitytoken")
    username, password = _pair(entry)
    if isinstance(token, str) and token:
        return Credential(username=username, secret=token, place=place, is_identity_token=True)
    if not username or not password:
        return None
    return made_of(username, password, place=place)


def made_of(username: str, secret: str, *, place: str) -> Credential:
    """Return the credential that a name and a secret are; Azure's name for nobody means that it is a token."""
    return Credential(username=username, secret=secret, place=place, is_identity_token=username == AZURE_USER)


def _pair(entry: Mapping[str, Any]) -> tuple[str, str]:
    text = entry.get("auth")
    if isinstance(text, str) and text:
        try:
            username, _, password = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return username, password.strip("\0")  # as Docker does: an old bug of its own left them
    name, secret = entry.get("username"), entry.get("password")
    return (name, secret) if isinstance(name, str) and isinstance(secret, str) else ("", "")


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_helper(name: object) -> bool:
    """Tell whether this can be the end of a program's name, and of nothing else."""
    return isinstance(name, str) and _HELPER.fullmatch(name) is not None
