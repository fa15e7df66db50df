"""HTTPS: certificate and key, taken up anew when their files change, while what runs goes on."""

from __future__ import annotations

import math
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import structlog

from mirror.concurrency.watched_files import WatchedFiles
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.config import ServerConfig, TlsFiles

log = structlog.get_logger(__name__)

_DAY_SECONDS = 86_400.0
_WARNED_DAYS = 30.0  # before its end


class _NewestContext(ssl.SSLContext):
    """The context that asyncio holds: each new connection is wrapped by the newest one.

    Loading other files into one context would leave it, for a moment or for good, with a certificate and no key.
    """

    newest: ssl.SSLContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - ssl's signature
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection."""
        return self.newest.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class ServerTls:
    """The certificate that clients are shown."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            ConfigError: they are not what they should be.
        """
        self._files = files
        named = [files.certificate, files.key, files.client_ca]
        self._watched = WatchedFiles([path for path in named if path is not None])
        self._warned_at = -math.inf
        self.context = _NewestContext(ssl.PROTOCOL_TLS_SERVER)
        self._take()

    @classmethod
    def of(cls, server: ServerConfig) -> ServerTls | None:
        """Return what the configuration asks for: nothing, or HTTPS.

        Raises:
            ConfigError: the files are not what they should be.
        """
        return None if server.tls is None else cls(server.tls)

    async def follow(self) -> NoReturn:
        """Take the files up whenever they have been replaced."""
        await self._watched.follow(self._renew, looked=self._warn_of_end)

    def _warn_of_end(self) -> None:
        """Say once a day that the certificate ends soon, or has ended."""
        days_left = (self._ends - datetime.now(UTC)).total_seconds() / _DAY_SECONDS
        if days_left < _WARNED_DAYS and time.monotonic() - self._warned_at > _DAY_SECONDS:
            self._warned_at = time.monotonic()
            log.warning("tls.certificate_ending", certificate=str(self._files.certificate), days_left=int(days_left))

    def _renew(self) -> None:
        try:
            self._take()
        except ConfigError as error:
            log.error("tls.not_renewed", error=str(error))
            return
        self._warned_at = -math.inf
        log.info("tls.renewed", certificate=str(self._files.certificate), ends=self._ends.isoformat())

    def _take(self) -> None:
        context, ends = _context(self._files), _end(self._files.certificate)
        self.context.newest, self._ends = context, ends


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _check_readable("tls_certificate", files.certificate)
    _check_readable("tls_key", files.key)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _unusable("tls_key", files.key, f"it is not the key of {files.certificate}") from error
        raise _unusable("tls_certificate", files.certificate, f"{error.reason or error}, with {files.key}") from error
    except _PasswordWanted as error:
        raise _unusable("tls_key", files.key, "it is encrypted; the mirror has no password for it") from error
    if files.client_ca is not None:
        _check_readable("tls_client_ca", files.client_ca)
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise _unusable("tls_client_ca", files.client_ca, str(error.reason or error)) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _PasswordWanted(Exception):
    pass


def _refuse_password() -> str:
    raise _PasswordWanted  # else OpenSSL would ask on the terminal


def _end(certificate: Path) -> datetime:
    from cryptography import x509  # noqa: PLC0415 - memory that plain HTTP does without

    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise _unusable("tls_certificate", certificate, str(error)) from error


def _check_readable(key: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise _unusable(key, path, error.strerror or str(error)) from error


def _unusable(key: str, path: Path, reason: str) -> ConfigError:
    return ConfigError(f"server.{key}: cannot use {path}: {reason}")
