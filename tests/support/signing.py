"""Real tokens: JWTs that Debian's docker-registry checks by a certificate."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

_KEY_ID_BYTES = 30


class TokenSigner:
    """Signs with a fresh P-256 key.

    Registry 2.8 finds the key by ``x5c`` (the certificate itself) or by ``kid`` (libtrust's fingerprint of the key);
    either way its ``rootcertbundle`` is `certificate`.
    """

    def __init__(self, *, issuer: str = "test issuer", header: Literal["x5c", "kid"] = "x5c") -> None:
        self.issuer = issuer
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certify(self._key)
        self.certificate = certificate.public_bytes(Encoding.PEM)
        if header == "x5c":
            self._headers: dict[str, Any] = {"x5c": [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]}
        else:
            self._headers = {"kid": _key_id(self._key.public_key())}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return the token of these claims and this issuer."""
        return jwt.encode({"iss": self.issuer, **claims}, self._key, algorithm="ES256", headers=self._headers)


def _certify(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test token service")])
    now = dt.datetime.now(tz=dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(hours=1))
    return builder.not_valid_after(now + dt.timedelta(days=30)).sign(key, SHA256())


def _key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Return libtrust's key id: twelve groups of four letters.

    Spec: https://github.com/docker/libtrust/blob/aabc10ec26b7/util.go#L193
    """
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    text = base64.b32encode(digest[:_KEY_ID_BYTES]).decode().rstrip("=")
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))
