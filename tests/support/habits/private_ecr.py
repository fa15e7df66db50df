"""The registry of an account at Amazon."""

from __future__ import annotations

import secrets

from aiohttp import web

from tests.support.access import Access, BasicGate, read_basic
from tests.support.clock import MovableClock
from tests.support.faults import Redirect
from tests.support.habits.base import DATA_HOST, Habit, Sample, encode_basic
from tests.support.images import oci_image
from tests.support.record import Recorded
from tests.support.registry import TestRegistry
from tests.support.replies import Reply, error_reply

_PASSWORDS_LIVE_SECONDS = 12 * 3600
_MOST_TAGS = 1000


class PrivateEcr(Habit):
    """Basic only, with a password that ends 12 hours after it was made; ``clock.advance`` moves its time.

    A password that has ended is answered by 403 and no challenge.
    Source: https://github.com/flipt-io/flipt/issues/3043
    """

    name = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    private = Sample("team/app", "1", oci_image(171, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        self.clock = MovableClock()
        self.passwords: dict[str, float] = {}  # password → when it ends, in seconds since the epoch
        self.access = Access(private={self.private.repository: {"AWS"}})
        self.registry = _PrivateRegistry(gate=_PasswordGate(self, self.access), cdn_address=DATA_HOST)
        self.registry.redirects["blob"] = Redirect()
        self.make_password()

    def make_password(self) -> tuple[str, float]:
        """Return the next password, as GetAuthorizationToken does, and when it ends; those before it stay valid."""
        password, ends_at = secrets.token_urlsafe(48), self.clock.now() + _PASSWORDS_LIVE_SECONDS
        self.passwords[password] = ends_at
        self.access.users["AWS"] = password
        return password, ends_at

    def end_credential(self) -> None:
        """Let twelve hours pass, and make the next password."""
        self.clock.advance(_PASSWORDS_LIVE_SECONDS)
        self.make_password()

    @property
    def secrets(self) -> set[str]:
        """Every text that must not be seen, with the passwords that have ended."""
        return super().secrets | set(self.passwords) | {encode_basic("AWS", password) for password in self.passwords}


class _PasswordGate(BasicGate):
    def __init__(self, ecr: PrivateEcr, access: Access) -> None:
        super().__init__(access, challenge=f'Basic realm="https://{ecr.name}/",service="ecr.amazonaws.com"')
        self._ecr = ecr

    def check(self, recorded: Recorded) -> Reply | None:
        user, password = read_basic(recorded.headers) or ("", "")
        ends_at = self._ecr.passwords.get(password) if user == "AWS" else None
        if ends_at is None:
            return super().check(recorded)
        if ends_at <= self._ecr.clock.now():
            return error_reply(403, "DENIED", "Your authorization token has expired. Reauthenticate and try again.")
        recorded.facts["user"] = user
        return None


class _PrivateRegistry(TestRegistry):
    async def answer(self, request: web.BaseRequest, recorded: Recorded | None) -> Reply:
        reply = await super().answer(request, recorded)
        if recorded is not None and (recorded.kind, recorded.method) == ("manifest", "GET"):
            reply.headers.pop("Docker-Content-Digest", None)
        return reply

    def _find(self, recorded: Recorded) -> Reply:
        asked = recorded.query.get("n", "")
        if recorded.kind == "tags" and asked.isdecimal() and int(asked) > _MOST_TAGS:
            return error_reply(405, "UNSUPPORTED", "Invalid parameter at 'maxResults' failed to satisfy constraint")
        return super()._find(recorded)
