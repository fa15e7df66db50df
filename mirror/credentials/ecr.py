"""Passwords of Amazon's private registries: made by their API for whoever this machine is, and good for twelve hours.

Needs the extra ``mirror[ecr]``, which brings botocore; it finds the machine's identity as all of Amazon's tools do.

API: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, Final

from mirror.credentials.credential import Credential

_REGISTRY: Final = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws)"
)
_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 10
_PLACE: Final = "Amazon ECR"


class EcrFailed(Exception):
    """Amazon gave no password; the message says why."""


@dataclass(frozen=True, slots=True)
class EcrPassword:
    """A credential and when it ends, in seconds since the epoch."""

    credential: Credential
    expires_at: float


def find_region(upstream: str) -> str | None:
    """Return the region of an upstream that is one of Amazon's private registries."""
    match = _REGISTRY.fullmatch(upstream)
    return None if match is None else match["region"]


async def fetch_password(region: str, *, time_limit_seconds: float) -> EcrPassword:
    """Ask Amazon for a password.

    Raises:
        EcrFailed: botocore is not installed, this machine has no identity there, or there was no answer.
    """
    try:
        async with asyncio.timeout(time_limit_seconds):
            return await asyncio.to_thread(_fetch, region)
    except TimeoutError as error:
        raise EcrFailed(f"Amazon gave no password within {time_limit_seconds:g} s") from error


def _fetch(region: str) -> EcrPassword:
    try:
        import botocore.session  # noqa: PLC0415 - an extra
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    except ImportError as error:
        raise EcrFailed("install mirror[ecr] to let the mirror renew this password by itself") from error
    limits = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, retries={"total_max_attempts": 2})
    try:
        client = botocore.session.get_session().create_client("ecr", region_name=region, config=limits)
        return _read(client.get_authorization_token())
    except (BotoCoreError, ClientError) as error:
        raise EcrFailed(f"Amazon gave no password: {error}") from error


def _read(answer: dict[str, Any]) -> EcrPassword:
    try:
        (made,) = answer["authorizationData"]
        username, _, password = base64.b64decode(made["authorizationToken"], validate=True).decode().partition(":")
        expires_at = float(made["expiresAt"].timestamp())
    except (KeyError, ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise EcrFailed("Amazon answered something else than a password") from error
    return EcrPassword(Credential(username=username, secret=password, place=_PLACE), expires_at)
