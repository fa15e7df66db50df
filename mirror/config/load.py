"""Putting the configuration together: later sources win, everything is checked, every error is one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirror.config import schema, secrets, sources, values
from mirror.config.settings import (
    DOCKER_HUB,
    SECTIONS,
    AccessConfig,
    CacheConfig,
    Config,
    ConfiguredCredential,
    Declared,
    LogConfig,
    ServerConfig,
    UpstreamConfig,
    declared,
)
from mirror.config.sources import BUILT_IN_PLACE, UPSTREAMS, Entry, File, Key, dotted
from mirror.errors import ConfigError


def load(*, path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Config:
    """Read the configuration: flags win over the environment, the environment over the file, the file over defaults.

    Args:
        path: the file, which must exist; ``None`` for none.
        environ: the process's environment.
        overrides: flags by dotted key, such as ``{"server.workers": 2}``; one that is ``None`` was not given.

    Raises:
        ConfigError: one line that names the place, the key and the reason.
    """
    settled: _Settled = {}
    _settle(settled, sources.built_in())
    if path is not None:
        _settle(settled, File(path).entries())
    _settle(settled, sources.environment(environ, _upstream_names(settled)))
    _settle(settled, sources.flags(overrides))
    _check_tls(settled)
    _check_access(settled)
    cache = CacheConfig(**_section(settled, "cache"))
    return Config(
        server=ServerConfig(**_section(settled, "server")),
        log=LogConfig(**_section(settled, "log")),
        cache=cache,
        access=AccessConfig(**_section(settled, "access")),
        upstreams=_upstreams(settled, environ, cache),
        docker_config=_docker_config(environ),
    )


def _docker_config(environ: Mapping[str, str]) -> Path | None:
    """Return where Docker's own commands keep their configuration."""
    if folder := environ.get("DOCKER_CONFIG"):
        return Path(folder) / "config.json"
    home = environ.get("HOME")
    return Path(home) / ".docker" / "config.json" if home else None


@dataclass(frozen=True, slots=True)
class _Setting:
    value: Any  # of the type that the key's field has, as its kind read it
    entry: Entry

    def fault(self, reason: str) -> ConfigError:
        return self.entry.fault(reason)


_Settled = dict[Key, _Setting]


def _settle(settled: _Settled, entries: Iterable[Entry]) -> None:
    for entry in entries:
        kind = schema.find(entry).kind
        written = entry.written
        try:
            value = kind.read(kind.from_text(written) if entry.is_text and isinstance(written, str) else written)
        except values.Unfit as error:
            raise entry.fault(str(error)) from error
        settled[entry.key] = _Setting(value, entry)


def _section(settled: _Settled, name: str) -> dict[str, Any]:
    return _given(settled, (name,), SECTIONS[name])


def _given(settled: _Settled, parents: Key, known: Mapping[str, Declared]) -> dict[str, Any]:
    """Return what was set, by the name of its field."""
    found = {one.attribute: settled.get((*parents, key)) for key, one in known.items()}
    return {attribute: setting.value for attribute, setting in found.items() if setting is not None}


def _check_tls(settled: _Settled) -> None:
    keys = ("tls_certificate", "tls_key", "tls_client_ca")
    given = {key: one for key in keys if (one := settled.get(("server", key))) is not None and one.value is not None}
    for setting in given.values():
        for needed in keys[:2]:
            if needed not in given:
                raise setting.fault(f"needs server.{needed} too")


def _check_access(settled: _Settled) -> None:
    htpasswd, networks = settled.get(("access", "htpasswd")), settled.get(("access", "anonymous_networks"))
    if networks is not None and networks.value and (htpasswd is None or htpasswd.value is None):
        raise networks.fault("needs access.htpasswd too: without it, nobody needs a password")


def _upstream_names(settled: _Settled) -> list[str]:
    return list(dict.fromkeys(key[1] for key in settled if key[0] == UPSTREAMS))


def _upstreams(settled: _Settled, environ: Mapping[str, str], cache: CacheConfig) -> dict[str, UpstreamConfig]:
    names = [name for name in _upstream_names(settled) if _is_enabled(settled, name)]
    default = _default(settled, names)
    upstreams = {}
    for name in names:
        computed: dict[str, Any] = {"endpoints": (f"https://{name}",), "tag_ttl_seconds": cache.tag_ttl_seconds}
        given = _given(settled, (UPSTREAMS, name), declared(UpstreamConfig)) | {"default": name == default}
        credential = _credential(settled, name, environ)
        upstreams[name] = UpstreamConfig(name=name, credential=credential, **(computed | given))
    _check_hostnames(settled, upstreams.values())
    return upstreams


def _is_enabled(settled: _Settled, name: str) -> bool:
    setting = settled.get((UPSTREAMS, name, "enabled"))
    return setting is None or bool(setting.value)


def _default(settled: _Settled, names: Iterable[str]) -> str:
    """Choose the one that is asked for; the built-in one gives way."""
    claims = [claim for name in names if (claim := settled.get((UPSTREAMS, name, "default"))) and claim.value]
    asked = [claim for claim in claims if claim.entry.place != BUILT_IN_PLACE]
    if len(asked) > 1:
        raise asked[1].fault(f"cannot be true too: {dotted(asked[0].entry.key)} is")
    if not claims:
        hub = (UPSTREAMS, DOCKER_HUB)
        culprit = settled[*hub, "default"] if _is_enabled(settled, DOCKER_HUB) else settled[*hub, "enabled"]
        raise culprit.fault("leaves no default upstream; set default = true for another one")
    return (asked or claims)[0].entry.key[1]


def _check_hostnames(settled: _Settled, upstreams: Iterable[UpstreamConfig]) -> None:
    owners: dict[str, str] = {}
    for upstream in upstreams:
        for hostname in upstream.hostnames:
            owner = owners.setdefault(hostname, upstream.name)
            if owner != upstream.name:
                setting = settled[UPSTREAMS, upstream.name, "hostnames"]
                raise setting.fault(f"has {hostname}, which already selects {owner}")


def _credential(settled: _Settled, name: str, environ: Mapping[str, str]) -> ConfiguredCredential | None:
    def given(key: str) -> list[_Setting]:
        setting = settled.get((UPSTREAMS, name, key))
        return [setting] if setting is not None and setting.value else []

    username = given("username")
    passwords = [*given("password_file"), *given("password_env"), *given("password")]
    if len(passwords) > 1:
        raise passwords[1].fault(f"cannot be set together with {passwords[0].entry.key[-1]}")
    if passwords and not username:
        raise passwords[0].fault("needs username too")
    if username and not passwords:
        raise username[0].fault("needs password_file, password_env or password too")
    return _read_credential(username[0].value, passwords[0], environ) if username else None


def _read_credential(username: str, setting: _Setting, environ: Mapping[str, str]) -> ConfiguredCredential:
    """Read the password from where the setting says it is; no message shows it."""
    match setting.entry.key[-1]:
        case "password_file":
            try:
                password = secrets.read_password_file(setting.value, username=username)
            except secrets.SecretUnusable as error:
                raise setting.fault(str(error)) from error
            return ConfiguredCredential(username=username, password=password, password_file=setting.value)
        case "password_env":
            text = environ.get(setting.value, "")
            if not text:
                raise setting.fault("names a variable that is not set")
        case _:
            text = str(setting.value)
    try:
        return ConfiguredCredential(username=username, password=secrets.check_password(text, username=username))
    except values.Unfit:
        raise setting.fault("names something that is not one line of text") from None
