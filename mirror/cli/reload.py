"""The configuration that a server runs by, and how a changed one takes its place: whole, or not at all."""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from mirror.config.changes import compare
from mirror.errors import ConfigError
from mirror.figures import Since
from mirror.web.admin import AdminToken
from mirror.web.htpasswd import Htpasswd
from mirror.web.tls import ServerTls

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Config

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Usable:
    """A configuration, and what was read of the files that it names."""

    config: Config
    tls: ServerTls | None
    htpasswd: Htpasswd | None
    read_at: float

    @classmethod
    def of(cls, config: Config) -> _Usable:
        """Read the files.

        Raises:
            ConfigError: the certificate, passwords or token that it names cannot be used.
        """
        AdminToken.check(config.access)
        return cls(config, ServerTls.of(config.server), Htpasswd.of(config.access), time.time())


class Settings:
    """What was read last and can be used; what was used before it, until it is."""

    def __init__(self, read: Callable[[], Config]) -> None:
        """Read it.

        Raises:
            ConfigError: it, or the certificate or passwords that it names, cannot be used.
        """
        self._read = read
        self._now = self._before = self._first = _Usable.of(read())
        self._is_rejected = mmap.mmap(-1, 1)  # shared with the workers that are forked

    @property
    def config(self) -> Config:
        """The configuration itself."""
        return self._now.config

    @property
    def tls(self) -> ServerTls | None:
        """The certificate that it names."""
        return self._now.tls

    @property
    def htpasswd(self) -> Htpasswd | None:
        """The passwords that it names."""
        return self._now.htpasswd

    @property
    def since(self) -> Since:
        """Since when there is a server, and since when it has this configuration."""
        is_first = self._now is self._first
        return Since(started=self._first.read_at, reloaded=None if is_first else self._now.read_at)

    def reload(self) -> bool:
        """Read it again; return whether it can be used, and log what is different or what is wrong with it."""
        try:
            changes = compare(self.config, self._read())
            read = _Usable.of(changes.config)
        except ConfigError as error:
            log.error("config.rejected", error=str(error))
            return False
        self._before, self._now = self._now, read
        log.info("config.reloaded", changed=list(changes.taken_up))
        if changes.needing_restart:
            log.warning("config.restart_needed", keys=list(changes.needing_restart))
        return True

    def go_back(self) -> None:
        """Forget what was read last, with which no mirror could begin; have the supervisor forget it too."""
        self._now = self._before
        self._is_rejected[0] = 1

    def settle(self) -> None:
        """Forget it where a worker had to; for the supervisor, by whose settings others take the place of workers."""
        if self._is_rejected[0]:
            self._now, self._is_rejected[0] = self._before, 0
