"""Docker's credential helpers: programs that know a credential, asked without blocking and within a time limit.

Protocol: https://github.com/docker/docker-credential-helpers/blob/v0.9.3/README.md#development
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING, Final

from mirror.credentials.credential import Credential
from mirror.credentials.docker_config import made_of

if TYPE_CHECKING:
    from asyncio.subprocess import Process

TIME_LIMIT_SECONDS: Final = 10.0
"""For a program, or a cloud, to say which credential it is."""

_ENDING_SECONDS: Final = 1.0
_ANSWER_LIMIT_BYTES: Final = 64 * 1024
_IDENTITY_USER: Final = "<token>"
_UNKNOWN_WORDS: Final = ("credentials not found", "no credentials", "not found in")


class HelperFailed(Exception):
    """A helper that could not be run, took too long, or made no sense; the message shows nothing that it knows."""


async def ask_helper(helper: str, server: str, *, time_limit_seconds: float) -> Credential | None:
    """Ask ``docker-credential-HELPER get``; None where it knows none for this registry.

    Raises:
        HelperFailed: it gave no answer.
    """
    program = f"docker-credential-{helper}"
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True, limit=_ANSWER_LIMIT_BYTES
        )
    except OSError as error:
        raise HelperFailed(f"{program} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(time_limit_seconds):
            answer = await _converse(process, server)
            code = await process.wait() if len(answer) < _ANSWER_LIMIT_BYTES else 0
    except TimeoutError as error:
        raise HelperFailed(f"{program} gave no answer within {time_limit_seconds:g} s") from error
    finally:
        await _end(process)
    if code == 0:
        return _read(program, answer)
    if any(words in answer.decode(errors="replace") for words in _UNKNOWN_WORDS):
        return None
    raise HelperFailed(f"{program} failed with exit code {code}")


async def _converse(process: Process, server: str) -> bytes:
    """Tell it which registry, and read what it says, up to a limit."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    with contextlib.suppress(ConnectionError):  # one that does not listen may answer all the same
        process.stdin.write(server.encode())
        process.stdin.write_eof()
        await process.stdin.drain()
    answer = bytearray()
    while len(answer) < _ANSWER_LIMIT_BYTES and (chunk := await process.stdout.read(_ANSWER_LIMIT_BYTES)):
        answer += chunk
    return bytes(answer)


async def _end(process: Process) -> None:
    """Leave nothing running, children of the program included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENDING_SECONDS):
            while process.stdout is not None and await process.stdout.read(_ANSWER_LIMIT_BYTES):
                pass  # asyncio calls a process ended when its pipes have
            await process.wait()


def _read(program: str, answer: bytes) -> Credential:
    try:
        document = json.loads(answer)
        username, secret = document["Username"], document["Secret"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise HelperFailed(f"{program} answered something else than a credential") from None
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise HelperFailed(f"{program} answered something else than a credential")
    if username == _IDENTITY_USER:
        return Credential(username="", secret=secret, place=program, is_identity_token=True)
    return made_of(username, secret, place=program)
