"""Real container clients as Debian ships them, each in a folder of its own that goes with it.

None has a way to other machines: one that gives the mirror up fails at once, whether or not there is a network. Daemons
run in mount namespaces of their own, so that the kernel takes their mounts away with them, whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.ports import end_process, start_process

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]

_DEBIAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # not /usr/local: a newer client may be there
_NOBODY = "http://127.0.0.1:9"
_COMMAND_SECONDS = 30.0
_START_SECONDS = 20.0
_ATTEMPT_SECONDS = 0.01
_GRACE_SECONDS = 10.0


class ClientFailed(Exception):
    """A client ended with an error; the text is what it wrote."""


class Client(ABC):
    """A client that asks the mirror at ``mirror_host`` for what comes from docker.io and ghcr.io."""

    def __init__(self, program: str, mirror_host: str) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix=f"{program}-")
        self.folder = Path(self._temporary.name)
        self.mirror_host = mirror_host
        scratch = self.folder / "tmp"
        scratch.mkdir()
        self.environment: dict[str, str] = {
            "PATH": _DEBIAN_PATH,
            "HOME": str(self.folder),
            "TMPDIR": str(scratch),
            "HTTP_PROXY": _NOBODY,
            "HTTPS_PROXY": _NOBODY,
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def name(self, upstream: str, image: str) -> str:
        """Return what a user of this client calls an image of an upstream."""
        return f"{upstream}/{image}"

    @abstractmethod
    def pull(self, image: str) -> str:
        """Pull an image and return the digest of its config.

        Raises:
            ClientFailed: it could not.
        """

    @abstractmethod
    def remove(self, image: str) -> None:
        """Forget an image and all its content."""

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program to its end.

        Raises:
            ClientFailed: it ended with an error.
        """
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise ClientFailed(
                f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done

    def write(self, name: str, text: str) -> Path:
        """Write a file into the client's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


class Daemon(Client):
    """A client with a server of its own, which runs as long as the block."""

    def __init__(self, program: str, mirror_host: str) -> None:
        super().__init__(program, mirror_host)
        self.socket = self.folder / "socket"
        self.log_path = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        super().__exit__()

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return the command that runs the server."""

    @abstractmethod
    def answer(self) -> None:
        """Return once the server has answered."""

    @property
    def pid(self) -> int:
        """The server's process."""
        if self._process is None:
            raise ChildProcessError("the daemon does not run")
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it answers.

        Raises:
            ChildProcessError: it ended instead; the text has its log.
        """
        with self.log_path.open("ab") as log:
            self._process = start_process(
                ["unshare", "--mount", *self.command()], output=log, errors=log, environment=self.environment
            )
        self._wait_for_socket(self._process)
        self.answer()

    def stop(self) -> None:
        """End the server, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            end_process(process, grace_seconds=_GRACE_SECONDS)
            self._end_children()

    def kill(self) -> None:
        """End the server by SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def _end_children(self) -> None:
        """Wait until those are gone that the server started: they die with it, a moment later."""
        deadline = time.monotonic() + _GRACE_SECONDS
        while left := processes_of(self.folder):
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(_ATTEMPT_SECONDS)

    def _wait_for_socket(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.socket)) == 0:
                    return
            if process.poll() is not None or time.monotonic() > deadline:
                raise ChildProcessError(f"the daemon did not start: {self.log_path.read_text(errors='replace')}")
            time.sleep(_ATTEMPT_SECONDS)


class Dockerd(Daemon):
    """A Docker daemon with the mirror in ``registry-mirrors``; it gives up what it cannot download at once."""

    def __init__(self, mirror_host: str) -> None:
        super().__init__("dockerd", mirror_host)
        settings = {
            "registry-mirrors": [f"http://{mirror_host}"],
            "max-download-attempts": 1,
            "data-root": str(self.folder / "data"),
            "exec-root": str(self.folder / "exec"),
            "pidfile": str(self.folder / "pid"),
            "hosts": [f"unix://{self.socket}"],
            "bridge": "none",
            "iptables": False,
            "ip-forward": False,
        }
        self._settings = self.write("daemon.json", json.dumps(settings))
        self.environment["DOCKER_HOST"] = f"unix://{self.socket}"

    def command(self) -> Sequence[str | Path]:
        return ["dockerd", "--config-file", self._settings]

    def answer(self) -> None:
        self.run("docker", "version")

    def name(self, upstream: str, image: str) -> str:
        """Return a bare name for Docker Hub; mirrors serve nothing else, so another registry's name is by path."""
        return image.removeprefix("library/") if upstream == "docker.io" else f"{self.mirror_host}/{upstream}/{image}"

    def pull(self, image: str, *, platform: str | None = None) -> str:
        wanted = [] if platform is None else ["--platform", platform]
        self.run("docker", "pull", "--quiet", *wanted, image)
        return self.config_digest(image)

    def remove(self, image: str) -> None:
        self.run("docker", "image", "rm", "--force", image)

    def config_digest(self, image: str) -> str:
        """Return the digest of the config of an image that was pulled.

        Raises:
            ClientFailed: there is no such image.
        """
        return self.run("docker", "image", "inspect", "--format", "{{.Id}}", image).stdout.strip()

    def build(self, image: str, folder: Path) -> str:
        """Build an image by BuildKit, and return what it told of each step."""
        options = ("--progress", "plain", "--tag", image)
        return self.run("env", "DOCKER_BUILDKIT=1", "docker", "build", *options, folder).stderr

    def search(self, term: str) -> list[str]:
        """Return the names that ``docker search`` prints."""
        return self.run("docker", "search", "--format", "{{.Name}}", term).stdout.split()

    def compose(self, services: Mapping[str, str], *arguments: str) -> None:
        """Run ``docker-compose`` with a file of these services, given with their images."""
        file = {"version": "3.0", "services": {service: {"image": image} for service, image in services.items()}}
        path = self.write("compose/docker-compose.yml", json.dumps(file))  # JSON is YAML
        self.run("docker-compose", "--file", path, *arguments)


class Containerd(Daemon):
    """containerd, asked by ``ctr``, with a ``hosts.toml`` for each registry."""

    def __init__(self, mirror_host: str) -> None:
        super().__init__("containerd", mirror_host)
        self._settings = self.write(
            "config.toml",
            "version = 2\n"
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'root = "{self.folder}/root"\n'
            f'state = "{self.folder}/state"\n'
            f'grpc = {{ address = "{self.socket}" }}\n'
            f'ttrpc = {{ address = "{self.socket}.ttrpc" }}\n',
        )
        for upstream in ("docker.io", "ghcr.io"):
            self.write(
                f"hosts/{upstream}/hosts.toml",
                f'[host."http://{mirror_host}"]\ncapabilities = ["pull", "resolve"]\n',
            )

    def command(self) -> Sequence[str | Path]:
        return ["containerd", "--config", self._settings]

    def answer(self) -> None:
        self.ctr("version")

    def ctr(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run ``ctr``."""
        return self.run("ctr", "--address", self.socket, *arguments)

    def pull(self, image: str) -> str:
        self.pull_verbosely(image)
        return self._config_digest(image)

    def pull_verbosely(self, image: str) -> str:
        """Pull, and return every HTTP request and answer as text."""
        hosts = self.folder / "hosts"
        done = self.ctr("images", "pull", "--snapshotter", "native", "--hosts-dir", hosts, "--http-dump", image)
        return done.stdout + done.stderr

    def remove(self, image: str) -> None:
        self.ctr("images", "rm", "--sync", image)

    def _config_digest(self, image: str) -> str:
        listed = self.ctr("images", "ls", f"name=={image}").stdout.splitlines()[1]
        manifest = self._document(next(word for word in listed.split() if word.startswith("sha256:")))
        for entry in manifest.get("manifests", []):
            if entry["platform"]["architecture"] == ARCHITECTURE:
                manifest = self._document(entry["digest"])
        digest: str = manifest["config"]["digest"]
        return digest

    def _document(self, digest: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.ctr("content", "get", digest).stdout)
        return document


class _RegistriesConfClient(Client):
    """A client that reads ``registries.conf``; ``hub_path`` is what stands there behind the mirror for docker.io."""

    def __init__(self, program: str, mirror_host: str, *, hub_path: str = "") -> None:
        super().__init__(program, mirror_host)
        mirrors = {"docker.io": f"{mirror_host}{hub_path}", "ghcr.io": f"{mirror_host}/ghcr.io"}
        tables = (
            f'[[registry]]\nlocation = "{upstream}"\n[[registry.mirror]]\nlocation = "{location}"\ninsecure = true\n'
            for upstream, location in mirrors.items()
        )
        self.registries_conf = self.write("registries.conf", "".join(tables))


class Podman(_RegistriesConfClient):
    """podman with a store of its own."""

    def __init__(self, mirror_host: str, *, hub_path: str = "") -> None:
        super().__init__("podman", mirror_host, hub_path=hub_path)
        storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{self.folder}/graph"\nrunroot = "{self.folder}/run"\n'
        containers = (
            f'[engine]\ntmp_dir = "{self.folder}/libpod"\nlock_type = "file"\nevents_logger = "none"\n'
            f'cgroup_manager = "cgroupfs"\n[network]\nnetwork_config_dir = "{self.folder}/networks"\n'
        )
        self.environment |= {
            "CONTAINERS_REGISTRIES_CONF": str(self.registries_conf),
            "CONTAINERS_STORAGE_CONF": str(self.write("storage.conf", storage)),
            "CONTAINERS_CONF": str(self.write("containers.conf", containers)),
        }

    def pull(self, image: str) -> str:
        return f"sha256:{self.run('podman', 'pull', '--quiet', image).stdout.strip()}"

    def remove(self, image: str) -> None:
        self.run("podman", "image", "rm", "--force", image)


class Skopeo(_RegistriesConfClient):
    """skopeo, which copies an image into a folder."""

    def __init__(self, mirror_host: str, *, hub_path: str = "") -> None:
        super().__init__("skopeo", mirror_host, hub_path=hub_path)

    def pull(self, image: str) -> str:
        target = self._target(image)
        # It does not know CONTAINERS_REGISTRIES_CONF.
        self.run("skopeo", "--registries-conf", self.registries_conf, "copy", f"docker://{image}", f"dir:{target}")
        digest: str = json.loads((target / "manifest.json").read_bytes())["config"]["digest"]
        return digest

    def remove(self, image: str) -> None:
        shutil.rmtree(self._target(image))

    def _target(self, image: str) -> Path:
        return self.folder / image.replace("/", "_").replace(":", "_")


def processes_of(folder: Path) -> list[int]:
    """Return the processes that have a folder in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ProcessLookupError):
            if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found
