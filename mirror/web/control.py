"""The control socket: operations by ``POST /v1/NAME``, arguments as a JSON object, the answer as lines of JSON.

Each line but the last is ``{"progress": {…}}``; the last is ``{"result": {…}}``, or ``{"error": "…"}``. What fails
before the first line has an error's status and that one line.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import web

from mirror.errors import InvalidRequest, MirrorError
from mirror.web import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.control.operations import Document, Operations

log = structlog.get_logger(__name__)

SOCKET_PREFIX: Final = "/v1/"
_CONTENT_TYPE = "application/x-ndjson"
_CREDENTIALS = struct.Struct("3i")  # struct ucred of socket(7): process, user, group
CONTROL_GRACE_SECONDS: Final = 1.0  # who asked is told nothing more when the server ends


class ControlHandler:
    """Answers what is asked over HTTP."""

    def __init__(self, operations: Operations) -> None:
        """Take what can be asked for."""
        self._operations = operations

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer over the socket, which only its owner can reach."""
        return await self.answer(request, SOCKET_PREFIX, by=_peer(request))

    async def answer(self, request: web.BaseRequest, prefix: str, *, by: str) -> web.StreamResponse:
        """Do what the path names after its prefix; ``by`` says who asks."""
        answer = _Answer(request)
        if request.method != "POST" or not request.path.startswith(prefix):
            text = f"operations are asked for by POST {prefix}NAME: {', '.join(self._operations.names)}"
            return await answer.fail(text, status=405 if request.path.startswith(prefix) else 404)
        name = request.path.removeprefix(prefix)
        try:
            result = await self._operations.run(name, await _arguments(request), answer.report, by=by)
        except MirrorError as error:
            return await answer.fail(str(error), status=errors.describe(error)[0])
        except ConnectionError:
            raise
        except Exception:
            log.exception("control.failed", operation=name)
            return await answer.fail("the mirror failed; its log says why", status=500)
        return await answer.end({"result": result})


class _Answer:
    """Lines, begun with the first of them."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._response: web.StreamResponse | None = None

    async def report(self, facts: Document, /) -> None:
        response = await self._begin(200)
        await response.write(_line({"progress": facts}))

    async def fail(self, text: str, *, status: int) -> web.StreamResponse:
        return await self.end({"error": text}, status=status)

    async def end(self, line: Document, *, status: int = 200) -> web.StreamResponse:
        response = await self._begin(status)
        await response.write(_line(line))
        await response.write_eof()
        return response

    async def _begin(self, status: int) -> web.StreamResponse:
        if self._response is None:
            headers = {"Allow": "POST"} if status == web.HTTPMethodNotAllowed.status_code else {}
            self._response = web.StreamResponse(status=status, headers={"Content-Type": _CONTENT_TYPE, **headers})
            await self._response.prepare(self._request)
        return self._response


def control_server(handler: ControlHandler) -> web.Server:
    """Return what answers on the control socket."""
    return web.Server(handler, handler_cancellation=True, access_log=None)


async def _arguments(request: web.BaseRequest) -> Mapping[str, Any]:
    try:
        body = await request.read()
        found = json.loads(body) if body else {}
    except web.HTTPRequestEntityTooLarge as error:
        raise InvalidRequest("the arguments are too long") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the arguments are not JSON") from error
    if not isinstance(found, dict):
        raise InvalidRequest("the arguments have to be a JSON object")
    return found


def _peer(request: web.BaseRequest) -> str:
    """Say which process of which user is at the other end of a Unix socket."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    if connection is None:
        return "somebody who has left"
    process, user, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return f"user {user}, process {process}"


def _line(document: Document) -> bytes:
    return json.dumps(document).encode() + b"\n"
