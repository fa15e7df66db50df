"""A test registry as a process of its own: ``python -m tests.support.control --port 5001``.

It says on its standard output, in one line of JSON, on which ports it is, and obeys ``/_control/`` on its port: every
command is a POST of a JSON object that is answered by one. `tests.support.process` is the other end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support import faults, record
from tests.support.access import Access, BasicGate, Gate
from tests.support.registry import RateLimit, TestRegistry
from tests.support.replies import Reply, error_reply, json_reply
from tests.support.tokens import BearerGate, TokenService, TokenSettings

_PREFIX = "/_control/"
_Json = dict[str, Any]


class Control:
    """Carries out what the test on the other side of the port asks."""

    def __init__(self, registry: TestRegistry, access: Access, tokens: TokenService | None) -> None:
        self._registry = registry
        self._access = access
        self._tokens = tokens
        self._servers: dict[str, TestRegistry | TokenService] = {"registry": registry}
        if tokens is not None:
            self._servers["tokens"] = tokens

    async def answer(self, request: web.BaseRequest) -> Reply:
        """Carry out one command."""
        command = request.path.removeprefix(_PREFIX)
        given: _Json = json.loads(await request.read() or b"{}")
        if command == "wait":
            return json_reply(await self._wait(given))
        act = {
            "apply": self._apply,
            "fail": self._fail,
            "heal": self._heal,
            "release": self._release,
            "requests": self._requests,
            "forget": self._forget,
            "set": self._set,
            "access": self._set_access,
            "tokens": self._set_tokens,
            "advance": self._advance,
            "revoke": self._revoke,
        }.get(command)
        if act is None:
            return error_reply(404, "UNSUPPORTED", f"no such command: {command}")
        try:
            return json_reply(act(given))
        except (KeyError, TypeError, ValueError) as error:
            return error_reply(400, "UNSUPPORTED", f"{command}: {error!r}")

    def _server(self, given: _Json) -> TestRegistry | TokenService:
        return self._servers[given.get("server", "registry")]

    def _apply(self, given: _Json) -> _Json:
        self._registry.content.apply(given["changes"])
        return {}

    def _fail(self, given: _Json) -> _Json:
        self._server(given).fail(*(faults.from_json(value) for value in given["faults"]))
        return {}

    def _heal(self, given: _Json) -> _Json:
        self._server(given).heal()
        return {}

    def _release(self, _: _Json) -> _Json:
        self._registry.release()
        return {}

    def _requests(self, given: _Json) -> _Json:
        kept = self._server(given).record
        return {"version": kept.version, "requests": [record.to_json(request) for request in kept.requests]}

    async def _wait(self, given: _Json) -> _Json:
        """Answer when something has happened since a version of the record, or at the end of the time."""
        kept = self._server(given).record
        with suppress(TimeoutError):
            await kept.until(lambda: kept.version != given["version"], timeout_seconds=given["timeout_seconds"])
        return {"version": kept.version}

    def _forget(self, given: _Json) -> _Json:
        self._server(given).record.clear()
        return {}

    def _set(self, given: _Json) -> _Json:
        if "limit" in given:
            self._registry.limit = None if given["limit"] is None else RateLimit(**given["limit"])
        if "has_referrers" in given:
            self._registry.has_referrers = given["has_referrers"]
        return {}

    def _set_access(self, given: _Json) -> _Json:
        fill_access(self._access, given)
        return {}

    def _set_tokens(self, given: _Json) -> _Json:
        if self._tokens is not None:
            for name, value in given.items():
                setattr(self._tokens.settings, name, value)
        return {}

    def _advance(self, given: _Json) -> _Json:
        self._registry.cdn.clock.advance(given["seconds"])
        if self._tokens is not None:
            self._tokens.clock.advance(given["seconds"])
        return {}

    def _revoke(self, _: _Json) -> _Json:
        if self._tokens is not None:
            self._tokens.revoke_all()
        return {}


def fill_access(access: Access, given: Mapping[str, Any]) -> None:
    """Take users and private repositories from JSON."""
    if "users" in given:
        access.users = dict(given["users"])
    if "private" in given:
        access.private = {repository: set(users) for repository, users in given["private"].items()}


async def serve(*, ports: Mapping[str, int], folder: Path, settings: Mapping[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT."""
    access = Access()
    fill_access(access, settings)
    auth = settings.get("auth", "none")
    async with AsyncExitStack() as resources:
        tokens = None
        if auth == "bearer":
            token_settings = TokenSettings(**settings.get("tokens", {}))
            tokens = TokenService(access, settings=token_settings, port=ports.get("tokens", 0))
            await resources.enter_async_context(tokens)
        gates: Mapping[str, Gate | None] = {
            "none": None,
            "basic": BasicGate(access),
            "bearer": BearerGate(tokens) if tokens is not None else None,
        }
        registry = TestRegistry(
            port=ports.get("registry", 0), cdn_port=ports.get("cdn", 0), gate=gates[auth], folder=folder
        )
        registry.control = Control(registry, access, tokens)
        await resources.enter_async_context(registry)
        used = {"registry": registry.server.port, "cdn": registry.cdn.server.port}
        used |= {"tokens": tokens.server.port} if tokens is not None else {}
        sys.stdout.write(json.dumps(used) + "\n")
        sys.stdout.flush()
        await _until_told()


async def _until_told() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.control", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cdn-port", type=int, default=0)
    parser.add_argument("--token-port", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keeps the content; without it the content ends with the process")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON: auth, users, private, tokens")
    options = parser.parse_args()
    ports = {"registry": options.port, "cdn": options.cdn_port, "tokens": options.token_port}
    with tempfile.TemporaryDirectory(prefix="registry-") as spare:
        asyncio.run(serve(ports=ports, folder=options.folder or Path(spare), settings=options.settings))


if __name__ == "__main__":
    main()
