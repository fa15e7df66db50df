"""A certificate authority of one's own, and the server certificate that it signs, as PEM files in one folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mirror.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

ServerName = str | IPv4Address | IPv6Address

_AUTHORITY_LIFE = timedelta(days=3650)
_SERVER_LIFE = timedelta(days=825)  # macOS trusts none that is made for longer, whoever has signed it
_CLOCKS_DIFFER = timedelta(hours=1)
_COMMON_NAME_LIMIT = 64
_PRIVATE = 0o600
_PUBLIC = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What is in the folder now."""

    authority: Path
    authority_ends: datetime
    certificate: Path
    certificate_ends: datetime
    key: Path
    names: tuple[ServerName, ...]
    is_new_authority: bool


class Authority:
    """The folder: ``ca.crt``, ``ca.key``, ``server.crt``, ``server.key``."""

    def __init__(self, folder: Path) -> None:
        """Take a folder, which need not exist."""
        self._folder = folder
        self._ca_certificate = folder / "ca.crt"
        self._ca_key = folder / "ca.key"
        self._certificate = folder / "server.crt"
        self._key = folder / "server.key"

    def names(self) -> tuple[ServerName, ...]:
        """Return the names of the server certificate that is there; none where there is none.

        Raises:
            StorageError: it cannot be read.
        """
        if not self._certificate.exists():
            return ()
        certificate = _read_certificate(self._certificate)
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return ()
        addresses = found.get_values_for_type(x509.IPAddress)
        return (
            *found.get_values_for_type(x509.DNSName),
            *(one for one in addresses if isinstance(one, IPv4Address | IPv6Address)),
        )

    def issue(self, names: Sequence[ServerName], *, now: datetime) -> Made:
        """Make or renew the server certificate; make the authority first, where there is none.

        The server's key is kept where there is one, so that key and certificate fit at every moment.

        Raises:
            StorageError: a file cannot be read or written, or half of the authority is missing, or it has ended.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            is_new = not (self._ca_certificate.exists() or self._ca_key.exists())
            if is_new:
                self._create_authority(now)
            ca_certificate, ca_key = self._read_authority(now)
            key = self._read_or_create_key()
            certificate = _sign(ca_certificate, ca_key, key, names, now)
            _write(self._certificate, certificate.public_bytes(serialization.Encoding.PEM), _PUBLIC)
        except OSError as error:
            raise StorageError(f"{self._folder}: {error.strerror or error}") from error
        return Made(
            authority=self._ca_certificate,
            authority_ends=ca_certificate.not_valid_after_utc,
            certificate=self._certificate,
            certificate_ends=certificate.not_valid_after_utc,
            key=self._key,
            names=tuple(names),
            is_new_authority=is_new,
        )

    def _create_authority(self, now: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mirror's own authority, {now:%Y-%m-%d}")])
        usage = _usage(signs_certificates=True)
        certificate = (
            _builder(name, name, key.public_key(), now, now + _AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # both or none: a key whose certificate was not written would be in the way of the next attempt
        _write(self._ca_key, _pem(key), _PRIVATE)
        try:
            _write(self._ca_certificate, certificate.public_bytes(serialization.Encoding.PEM), _PUBLIC)
        except BaseException:
            self._ca_key.unlink()
            raise

    def _read_authority(self, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        for path, other in ((self._ca_certificate, self._ca_key), (self._ca_key, self._ca_certificate)):
            if not path.exists():
                raise StorageError(f"{path} is missing and {other} is there; put it back, or remove both to begin anew")
        certificate, key = _read_certificate(self._ca_certificate), _read_key(self._ca_key)
        if certificate.public_key() != key.public_key():
            raise StorageError(f"{self._ca_key} is not the key of {self._ca_certificate}; remove both to begin anew")
        if certificate.not_valid_after_utc <= now:
            raise StorageError(f"{self._ca_certificate} has ended; remove it and {self._ca_key} to begin anew")
        with contextlib.suppress(InvalidSignature, TypeError, ValueError):
            certificate.verify_directly_issued_by(certificate)
            return certificate, key
        raise StorageError(f"{self._ca_certificate} is no authority; remove it and {self._ca_key} to begin anew")

    def _read_or_create_key(self) -> ec.EllipticCurvePrivateKey:
        if self._key.exists():
            return _read_key(self._key)
        key = ec.generate_private_key(ec.SECP256R1())
        _write(self._key, _pem(key), _PRIVATE)
        return key


def _sign(
    ca_certificate: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[ServerName],
    now: datetime,
) -> x509.Certificate:
    common = str(names[0])[:_COMMON_NAME_LIMIT]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    ends = min(now + _SERVER_LIFE, ca_certificate.not_valid_after_utc)
    alternatives = [x509.DNSName(one) if isinstance(one, str) else x509.IPAddress(one) for one in names]
    issuer_key = ca_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(subject, ca_certificate.subject, key.public_key(), now, ends)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(ends)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StorageError(f"{path} is not a PEM certificate; remove it to have a new one") from error


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    path.chmod(_PRIVATE)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise StorageError(f"{path} is not a PEM key without a password; remove it to have a new one") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StorageError(f"{path} is not a key on an elliptic curve; remove it to have a new one")
    return key


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file in one step; the content is never readable by more than it should be."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def current_time() -> datetime:
    """Return the time, to the second, as certificates have it."""
    return datetime.now(UTC).replace(microsecond=0)
