"""Debian's docker-registry (distribution 2.8) as a process: a second upstream, or a peer to be measured against."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from tests.support.images import Blob, Index, Pullable
from tests.support.ports import end_process, free_port, start_process, wait_for_port
from tests.support.signing import TokenSigner

COMMAND = "/usr/bin/docker-registry"
_ANSWER_SECONDS = 60.0
_TOKEN_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAuth:
    """The token service to ask for: a `TokenService` with the same `signer`."""

    realm: str
    service: str
    signer: TokenSigner


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """What it mirrors when it is a pull-through cache itself."""

    url: str
    username: str = ""
    password: str = ""


class DebianRegistry:
    """Runs as long as the block; `stop` and `start` keep port and content.

    ``async with`` where its upstream or its token service lives in the same event loop: it asks them when it starts.
    """

    def __init__(
        self, *, auth: TokenAuth | None = None, upstream: Upstream | None = None, folder: Path | None = None
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="docker-registry-")
        self._auth = auth
        self._upstream = upstream
        self._settings_folder = Path(self._temporary.name)
        self._content_folder = folder or self._settings_folder / "content"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()

    async def __aenter__(self) -> Self:
        await self.launch()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.__exit__)

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:port``."""
        return f"http://{self.host}"

    @property
    def pid(self) -> int:
        """The process."""
        if self._process is None:
            raise ChildProcessError("the registry does not run")
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written."""
        return (self._settings_folder / "log").read_text()

    def start(self) -> None:
        """Start, and wait until it listens."""
        self._wait(self._spawn())

    async def launch(self) -> None:
        """Start, and let the loop run until it listens."""
        # Spawned by this thread: its end is the end of the process.
        await asyncio.to_thread(self._wait, self._spawn())

    def _spawn(self) -> subprocess.Popen[bytes]:
        config = self._settings_folder / "config.yml"
        config.write_text(json.dumps(self._config()))  # JSON is YAML
        with (self._settings_folder / "log").open("ab") as log:
            self._process = start_process([COMMAND, "serve", config], output=log, errors=log)
        return self._process

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        try:
            wait_for_port(self.port, process=process)
        except (TimeoutError, ChildProcessError):
            self.stop()
            raise

    def stop(self) -> None:
        """End it, if it runs; its content stays."""
        process, self._process = self._process, None
        if process is not None:
            end_process(process)

    def push(self, repository: str, tag: str, pullable: Pullable) -> None:
        """Upload an image or index with everything it names."""
        for image in pullable.images if isinstance(pullable, Index) else (pullable,):
            for blob in image.blobs:
                self.push_blob(repository, blob)
            self._push_manifest(repository, image.digest, image)
        self._push_manifest(repository, pullable.digest, pullable)
        self._push_manifest(repository, tag, pullable)

    def push_blob(self, repository: str, blob: Blob) -> None:
        """Upload a blob.

        Spec: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#post-then-put
        """
        location = self._request("POST", f"/v2/{repository}/blobs/uploads/", repository, expected=202)
        target = urlsplit(location)
        path = f"{target.path}?{target.query}&{urlencode({'digest': blob.digest})}"
        self._request("PUT", path, repository, body=blob.content, expected=201)

    def _push_manifest(self, repository: str, reference: str, pullable: Pullable) -> None:
        path = f"/v2/{repository}/manifests/{reference}"
        self._request("PUT", path, repository, body=pullable.manifest, content_type=pullable.media_type, expected=201)

    def _request(
        self,
        method: str,
        path: str,
        repository: str,
        *,
        expected: int,
        body: bytes = b"",
        content_type: str = "application/octet-stream",
    ) -> str:
        """Send one request; return the ``Location`` of the answer."""
        headers = {"Content-Type": content_type}
        if self._auth is not None:
            headers["Authorization"] = f"Bearer {self._push_token(self._auth, repository)}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != expected:
            raise ValueError(f"{method} {path} answered {response.status}: {answer!r}")
        return response.headers.get("Location", "")

    def _push_token(self, auth: TokenAuth, repository: str) -> str:
        now = int(time.time())
        access = [{"type": "repository", "name": repository, "actions": ["pull", "push"]}]
        return auth.signer.sign(
            {
                "aud": auth.service,
                "sub": "the test",
                "nbf": now - 10,
                "iat": now,
                "exp": now + _TOKEN_SECONDS,
                "jti": "push",
                "access": access,
            }
        )

    def _config(self) -> dict[str, Any]:
        storage = {
            "filesystem": {"rootdirectory": str(self._content_folder)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        }
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": storage,
            "http": {"addr": self.host, "secret": "the test's"},
        }
        if self._auth is not None:
            bundle = self._settings_folder / "root.pem"
            bundle.write_bytes(self._auth.signer.certificate)
            config["auth"] = {
                "token": {
                    "realm": self._auth.realm,
                    "service": self._auth.service,
                    "issuer": self._auth.signer.issuer,
                    "rootcertbundle": str(bundle),
                }
            }
        if self._upstream is not None:
            upstream = self._upstream
            config["proxy"] = {"remoteurl": upstream.url, "username": upstream.username, "password": upstream.password}
        return config
