"""The configuration that a server runs by, and how a changed one takes its place: whole, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from mirror.config.changes import compare
from mirror.errors import ConfigError
from mirror.web.admin import AdminToken
from mirror.web.htpasswd import Htpasswd
from mirror.web.tls import ServerTls

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Config

log = structlog.get_logger(__name__)


class Settings:
    """What was read last and can be used."""

    def __init__(self, read: Callable[[], Config]) -> None:
        """Read it.

        Raises:
            ConfigError: it, or the certificate or passwords that it names, cannot be used.
        """
        self._read = read
        self.config = read()
        self.tls = ServerTls.of(self.config.server)
        self.htpasswd = Htpasswd.of(self.config.access)
        AdminToken.check(self.config.access)

    def reload(self) -> bool:
        """Read it again; return whether it can be used, and log what is different or what is wrong with it."""
        try:
            changes = compare(self.config, self._read())
            tls, htpasswd = ServerTls.of(changes.config.server), Htpasswd.of(changes.config.access)
            AdminToken.check(changes.config.access)
        except ConfigError as error:
            log.error("config.rejected", error=str(error))
            return False
        self.config, self.tls, self.htpasswd = changes.config, tls, htpasswd
        log.info("config.reloaded", changed=list(changes.taken_up))
        if changes.needing_restart:
            log.warning("config.restart_needed", keys=list(changes.needing_restart))
        return True
