"""Finding an upstream's credential: its own keys, what `mirror login` stored, Docker's configuration, the cloud's.

The first that knows one is used. Files are looked at every second or so (`poll`), so that a credential that changes on
disk needs no restart; what a program or a cloud has answered is kept until it is refused or ends.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from mirror.config.secrets import SecretUnusable, read_password_file
from mirror.credentials import ecr, login_file
from mirror.credentials.credential import Credential
from mirror.credentials.docker_config import DockerConfig, made_of, server_names
from mirror.credentials.ecr import EcrFailed
from mirror.credentials.files import FileUnusable, WatchedFile
from mirror.credentials.helpers import TIME_LIMIT_SECONDS, HelperFailed, ask_helper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from mirror.config import Config, UpstreamConfig
    from mirror.ports import Clock

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0
_KEPT_SECONDS: Final = 60.0  # that somebody knows no credential, or cannot be asked
_USED_SHARE: Final = 0.9  # of a password's life
_FOR_EVER: Final = float("inf")
_OWN_PLACE: Final = "the configuration"
_DOCKER_PLACE: Final = "Docker's configuration"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a program or a cloud has answered, and until when that is good (seconds since the epoch)."""

    credential: Credential | None
    until: float


class CredentialSource:
    """The credential of one upstream."""

    def __init__(
        self,
        upstream: UpstreamConfig,
        *,
        own: WatchedFile[Credential] | None,
        login: WatchedFile[DockerConfig],
        docker: WatchedFile[DockerConfig] | None,
        clock: Clock,
    ) -> None:
        """Join the places to look in; ``own`` is the upstream's ``password_file``."""
        self._upstream = upstream
        self._own = own
        self._login = login
        self._docker = docker
        self._clock = clock
        self._names = server_names(upstream)
        self._region = ecr.find_region(upstream.name)
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._asking = asyncio.Lock()
        self.failure: str | None = None
        """Why a program or a cloud could not be asked, the last time."""

    async def find(self) -> Credential | None:
        """Return the credential to use now."""
        return self._in_files() or await self._by_helper() or self._in_docker_auths() or await self._from_amazon()

    async def look_again(self) -> None:
        """Read the files anew where they have changed: what they held before was refused."""
        files = [file for file in (self._own, self._login, self._docker) if file is not None]
        await asyncio.to_thread(lambda: [file.poll() for file in files])

    async def forget(self, credential: Credential) -> None:
        """Look for it anew everywhere, since it was refused: there may be another one by now."""
        self._kept = {key: kept for key, kept in self._kept.items() if kept.credential != credential}
        await self.look_again()

    def _in_files(self) -> Credential | None:
        configured = self._upstream.credential
        if configured is not None:
            if self._own is not None and self._own.content is not None:
                return self._own.content
            return made_of(configured.username, configured.password, place=_OWN_PLACE)
        stored = self._login.content
        return None if stored is None else stored.find([self._upstream.name])

    def _in_docker_auths(self) -> Credential | None:
        docker = None if self._docker is None else self._docker.content
        return None if docker is None else docker.find(self._names)

    async def _by_helper(self) -> Credential | None:
        docker = None if self._docker is None else self._docker.content
        asked = None if docker is None else docker.find_helper(self._names)
        if asked is None:
            return None
        return await self._asked_once(asked, lambda: self._ask(*asked))

    async def _ask(self, helper: str, server: str) -> _Kept:
        try:
            credential = await ask_helper(helper, server, time_limit_seconds=TIME_LIMIT_SECONDS)
        except HelperFailed as error:
            self._note_failure(error)
            credential = None
        return _Kept(credential, _FOR_EVER if credential is not None else self._clock() + _KEPT_SECONDS)

    async def _from_amazon(self) -> Credential | None:
        region = self._region
        return None if region is None else await self._asked_once(("ecr", region), lambda: self._fetch(region))

    async def _fetch(self, region: str) -> _Kept:
        now = self._clock()
        try:
            made = await ecr.fetch_password(region, time_limit_seconds=TIME_LIMIT_SECONDS)
        except EcrFailed as error:
            self._note_failure(error)
            return _Kept(None, now + _KEPT_SECONDS)
        return _Kept(made.credential, now + (made.expires_at - now) * _USED_SHARE)

    def _note_failure(self, error: HelperFailed | EcrFailed) -> None:
        self.failure = str(error)
        log.warning("credentials.helper_failed", upstream=self._upstream.name, error=self.failure)

    async def _asked_once(self, key: tuple[str, str], ask: Callable[[], Awaitable[_Kept]]) -> Credential | None:
        """Return the answer that is kept, or ask, one caller for all."""
        async with self._asking:
            kept = self._kept.get(key)
            if kept is None or self._clock() >= kept.until:
                kept = self._kept[key] = await ask()
            return kept.credential


class CredentialSources:
    """The credentials of all upstreams, and the files that they are in."""

    def __init__(self, config: Config, clock: Clock) -> None:
        """Read every file once."""
        self._clock = clock
        self._login = WatchedFile(config.login_file, lambda path: DockerConfig.read(path, place=login_file.PLACE))
        self._docker: WatchedFile[DockerConfig] | None = None
        if config.docker_config is not None:
            self._docker = WatchedFile(config.docker_config, lambda path: DockerConfig.read(path, place=_DOCKER_PLACE))
        self._own = {one.name: own for one in config.upstreams.values() if (own := _own_file(one)) is not None}
        self._seen_version = self._version

    def of(self, upstream: UpstreamConfig) -> CredentialSource:
        """Return the credential of an upstream."""
        own = self._own.get(upstream.name)
        return CredentialSource(upstream, own=own, login=self._login, docker=self._docker, clock=self._clock)

    def poll(self) -> bool:
        """Look at every file again; return whether a credential may have changed. Blocks on the file system."""
        for file in self._files:
            file.poll()
        before, self._seen_version = self._seen_version, self._version
        return self._version != before

    @property
    def _files(self) -> list[WatchedFile[DockerConfig] | WatchedFile[Credential]]:
        return [self._login, *([] if self._docker is None else [self._docker]), *self._own.values()]

    @property
    def _version(self) -> int:
        return sum(file.version for file in self._files)


def _own_file(upstream: UpstreamConfig) -> WatchedFile[Credential] | None:
    configured = upstream.credential
    if configured is None or configured.password_file is None:
        return None
    username = configured.username

    def read(path: Path) -> Credential:
        try:
            return made_of(username, read_password_file(path, username=username), place=_OWN_PLACE)
        except SecretUnusable as error:
            raise FileUnusable(str(error)) from error

    return WatchedFile(configured.password_file, read)
