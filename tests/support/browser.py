"""A real browser without a window: Debian's chromium, driven by its DevTools protocol.

Protocol: https://chromedevtools.github.io/devtools-protocol/1-3/
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

_START_SECONDS = 30.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
)
_READ_CHUNK_BYTES = 4096


class Tab:
    """One page; ``events`` has what the browser said of it by method, in order."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)

    async def listen(self) -> None:
        """Take in what the browser says, until it is closed."""
        async for message in self._socket:
            said = message.json()
            if "id" not in said:
                self.events[said["method"]].append(said["params"])
            elif not (answer := self._answers.pop(said["id"])).done():
                answer.set_result(said)

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Ask the browser for something.

        Raises:
            RuntimeError: it refused.
        """
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        said = await asyncio.wait_for(answer, _START_SECONDS)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        result: dict[str, Any] = said["result"]
        return result

    async def evaluate(self, expression: str) -> Any:  # noqa: ANN401 - whatever it is in JavaScript
        """Return the value of a JavaScript expression; a promise is awaited."""
        said = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise RuntimeError(f"{expression}: {said['exceptionDetails']}")
        return said["result"].get("value")

    async def until(self, expression: str, *, seconds: float = 20.0) -> None:
        """Wait until a JavaScript expression holds."""
        async with asyncio.timeout(seconds):
            while not await self.evaluate(expression):
                await self.evaluate("new Promise(done => setTimeout(done, 50))")

    async def open(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Show a page in a window of this size, for eyes that like it light or dark."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href == {url!r} && document.readyState == 'complete'")

    async def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_CODES[key])

    async def screenshot(self, path: Path) -> None:
        """Save a picture of the whole page."""
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        said = await self.call(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1},
        )
        path.write_bytes(base64.b64decode(said["data"]))


_CODES = {"Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "Enter": 13}


@asynccontextmanager
async def browser_tab() -> AsyncIterator[Tab]:
    """Start a browser, and lend its one tab."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            "chromium",
            *_FLAGS,
            f"--user-data-dir={folder}",
            "about:blank",
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                port = await _port(process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    (address,) = [one["webSocketDebuggerUrl"] for one in await answer.json() if one["type"] == "page"]
                async with session.ws_connect(address, max_msg_size=0) as socket, asyncio.TaskGroup() as tasks:
                    tab = Tab(socket)
                    listening = tasks.create_task(tab.listen())
                    drained = tasks.create_task(_drain(process))
                    try:
                        yield tab
                    finally:
                        listening.cancel()
                        drained.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        if b"DevTools listening on" in line:
            return int(line.decode().split("ws://127.0.0.1:")[1].split("/")[0])
    raise ChildProcessError("chromium ended before it listened")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    while await process.stderr.read(_READ_CHUNK_BYTES):
        pass
