"""Clients that pull one image after another, as a container runtime does, and judge every byte and every error."""

from __future__ import annotations

import hashlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from tests.soak.content import NAME, Library
from tests.soak.weather import Weather
from tests.support.images import OCI_MANIFEST, Image

_ATTEMPTS = 5  # as many as dockerd makes, which waits 5, 10, 15 and 20 seconds between them
_PAUSE_SECONDS = 1.0
_PATIENCE_SECONDS = 30.0
_REFUSALS = frozenset({502, 503, 504})
_LEAVING_SHARE = 0.02  # of all pulls: the client goes away in the middle of a layer
_FAILURES_KEPT = 20


class _Refused(Exception):
    """An error before the body, from which a client turns to another mirror or tries again."""


class _Broken(Exception):
    """A body that ended short."""


@dataclass(slots=True)
class Findings:
    """What the clients saw."""

    pulls: Counter[str] = field(default_factory=Counter)  # whole, left, and attempts that were refused or broken
    failures: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """Count one."""
        with self._lock:
            self.pulls[what] += 1

    def fail(self, what: str) -> None:
        """Note something that must not be."""
        with self._lock:
            self.pulls["failures"] += 1
            if len(self.failures) < _FAILURES_KEPT:
                self.failures.append(what)


@dataclass(slots=True, kw_only=True)
class Load:
    """A number of clients, each in a thread."""

    port: int
    library: Library
    weather: Weather
    seed: int
    findings: Findings = field(default_factory=Findings)
    is_down: Callable[[float], bool] = lambda _: False  # whether the mirror may not have been there since
    is_patient: bool = True  # whether a request that is not answered after all attempts is a failure
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Let each client end its pull."""
        self._stopped.set()

    def run(self, number: int) -> None:
        """Be one client, until stopped."""
        choose = random.Random(f"{self.seed}/{number}")
        while not self._stopped.is_set():
            tag = self.library.choose(choose)
            try:
                self._pull(tag, leaves=choose.random() < _LEAVING_SHARE)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                self.findings.fail(f"image {tag}: {error!r}")

    def pull_all(self, tags: Sequence[int], *, clients: int) -> None:
        """Pull these images, several at once."""
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda tag: self._pull(tag, leaves=False), tags))

    def _pull(self, tag: int, *, leaves: bool) -> None:
        image = self.library.images[tag]
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_SECONDS)) as connection:
            for path, digest in _parts(tag, image):
                if leaves and path.startswith("blobs/") and digest != image.config.digest:
                    self._leave(connection, path)
                    return
                if not self._fetch(connection, path, digest):
                    return
        self.findings.count("whole")

    def _leave(self, connection: http.client.HTTPConnection, path: str) -> None:
        try:
            connection.request("GET", f"/v2/{NAME}/{path}")
            connection.getresponse().read(1000)
        except (OSError, http.client.HTTPException):
            pass
        self.findings.count("left")

    def _fetch(self, connection: http.client.HTTPConnection, path: str, digest: str) -> bool:
        """Ask until it comes, a few times at most; say whether it came."""
        errors = []
        for attempt in range(_ATTEMPTS):
            asked_at = time.monotonic()
            try:
                body = _ask(connection, path)
            except (_Refused, _Broken) as error:
                connection.close()
                errors.append(str(error))
                if not self._is_excused(error, digest, asked_at):
                    self.findings.fail(f"{path}: {error}, at {time.strftime('%H:%M:%S')}")
                self.findings.count("refused" if isinstance(error, _Refused) else "broken")
                if self._stopped.wait(_PAUSE_SECONDS * (attempt + 1)):
                    return False
                continue
            if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
                self.findings.fail(f"{path}: {len(body)} bytes that are not {digest}")
            return True
        if self.is_patient:
            self.findings.fail(f"{path}: not to be had, at {time.strftime('%H:%M:%S')}: {errors}")
        return False

    def _is_excused(self, error: Exception, digest: str, asked_at: float) -> bool:
        if self.is_down(asked_at):
            return True
        if isinstance(error, _Broken):
            return self.weather.was_spoiled(digest, asked_at)
        return self.weather.was_rough(asked_at)


def _parts(tag: int, image: Image) -> list[tuple[str, str]]:
    return [(f"manifests/{tag}", image.digest), *((f"blobs/{part.digest}", part.digest) for part in image.blobs)]


def _ask(connection: http.client.HTTPConnection, path: str) -> bytes:
    try:
        connection.request("GET", f"/v2/{NAME}/{path}", headers={"Accept": OCI_MANIFEST})
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"no answer: {error!r}") from error
    try:
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"ended short: {error!r}") from error
    if response.status in _REFUSALS:
        raise _Refused(f"{response.status} {body[:200]!r}")
    if response.status != http.client.OK:
        raise _Broken(f"{response.status} {body[:200]!r}")
    return body
