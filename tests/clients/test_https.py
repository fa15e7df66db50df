"""From nothing to pulls over HTTPS: ``mirror cert``, ``mirror serve``, and for each client the printed steps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.clients import ARCHITECTURE, ClientFailed, Containerd, Dockerd, Podman
from tests.support.images import docker_list
from tests.support.mirrors import MirrorProcess
from tests.support.ports import free_port
from tests.support.process import RegistryProcess

pytestmark = pytest.mark.clients

HOST_NAME = "mirror.test"
OWN_ETC = 'mount --bind "$0" /etc && exec "$@"'
WITHOUT_SYSTEMD = "systemctl reload docker"  # the daemon is started after the other steps instead


class Setup(NamedTuple):
    host: str
    printed: str
    authority: Path
    registry: RegistryProcess


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder, port = tmp_path_factory.mktemp("https"), free_port()
    config = folder / "port.toml"
    config.write_text(f'[server]\nlisten = ["0.0.0.0:{port}"]\n')
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "mirror",
        "cert",
        HOST_NAME,
        "--dir",
        folder / "certs",
        "--config",
        config,
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    server = "".join(line[2:] + "\n" for line in block(printed, "The mirror"))
    with (
        RegistryProcess() as registry,
        MirrorProcess({"docker.io": registry.base_url}, port=port, extra=server),
    ):
        yield Setup(f"{HOST_NAME}:{port}", printed, folder / "certs" / "ca.crt", registry)


def block(printed: str, title: str) -> list[str]:
    """Return the indented lines below a title."""
    lines = iter(printed.splitlines())
    next(line for line in lines if line.startswith(title))
    found = []
    for line in lines:
        if not line.startswith("  "):
            break
        found.append(line)
    return found


class Machine:
    """A client's machine: an ``/etc`` of its own, in which the host's name is known and the printed steps are done."""

    def __init__(self, folder: Path) -> None:
        self.etc = folder / "etc"
        shutil.copytree("/etc", self.etc, symlinks=True, ignore_dangling_symlinks=True)
        hosts = self.etc / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {HOST_NAME}\n")
        self._home = folder / "home"
        self._home.mkdir()

    def inside(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return the command that runs another one here."""
        return ["unshare", "--mount", "sh", "-c", OWN_ETC, self.etc, *command]

    def do(self, steps: Sequence[str], authority: Path) -> None:
        """Do what is printed for one client: commands, and the content of files."""
        shutil.copy(authority, self._home / "ca.crt")
        file: Path | None = None
        for line in (step[2:] for step in steps):
            if line.startswith("$ "):
                if line[2:] != WITHOUT_SYSTEMD:
                    subprocess.run(self.inside(["sh", "-c", line[2:]]), cwd=self._home, check=True)
            elif line.startswith("into /etc/"):
                file = self.etc / line.removeprefix("into /etc/").removesuffix(":")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("")
            else:
                assert file is not None
                assert line.startswith("  ")
                with file.open("a") as content:
                    content.write(line[2:] + "\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class HttpsDockerd(Dockerd):
    def __init__(self, host: str, machine: Machine) -> None:
        super().__init__(host)
        self._machine = machine
        self.environment["NO_PROXY"] = HOST_NAME

    def command(self) -> Sequence[str | Path]:
        options: list[str | Path] = ["--data-root", self.folder / "data", "--exec-root", self.folder / "exec"]
        options += ["--pidfile", self.folder / "pid", "--host", f"unix://{self.socket}", "--max-download-attempts=1"]
        return self._machine.inside(
            ["dockerd", *options, "--bridge=none", "--iptables=false", "--ip-forward=false"],
        )


class HttpsContainerd(Containerd):
    def __init__(self, host: str, machine: Machine) -> None:
        super().__init__(host)
        self._machine = machine
        self.environment["NO_PROXY"] = HOST_NAME

    def pull_verbosely(self, image: str) -> str:
        return self.ctr(
            "images", "pull", "--snapshotter", "native", "--hosts-dir", "/etc/containerd/certs.d", image
        ).stdout

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return super().run(*self._machine.inside(command))


class HttpsPodman(Podman):
    def __init__(self, host: str, machine: Machine) -> None:
        super().__init__(host)
        self._machine = machine
        self.environment["NO_PROXY"] = HOST_NAME
        del self.environment["CONTAINERS_REGISTRIES_CONF"]

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return super().run(*self._machine.inside(command))


CLIENTS: Mapping[str, type[HttpsDockerd | HttpsContainerd | HttpsPodman]] = {
    "Docker": HttpsDockerd,
    "containerd": HttpsContainerd,
    "podman": HttpsPodman,
}


@pytest.mark.parametrize("title", CLIENTS)
def test_a_client_pulls_over_https_with_only_the_printed_steps_done(
    title: str, setup: Setup, machine: Machine, seed: int
) -> None:
    index = docker_list(seed)
    setup.registry.add("library/app", str(seed), index)
    machine.do(block(setup.printed, title), setup.authority)
    setup.registry.reset_record()
    with CLIENTS[title](setup.host, machine) as client:
        pulled = client.pull(client.name("docker.io", f"library/app:{seed}"))
    assert pulled == index.image(ARCHITECTURE).config.digest
    assert setup.registry.requests  # through the mirror, as nobody else answers


def test_a_client_without_the_step_that_trusts_the_authority_pulls_nothing(
    setup: Setup, machine: Machine, seed: int
) -> None:
    setup.registry.add("library/app", str(seed), docker_list(seed))
    steps = [line for line in block(setup.printed, "podman") if not line.startswith("  $ ")]
    machine.do(steps, setup.authority)
    with HttpsPodman(setup.host, machine) as client, pytest.raises(ClientFailed, match="certificate"):
        client.pull(f"docker.io/library/app:{seed}")


def test_the_system_trusts_the_mirror_after_the_printed_steps(setup: Setup, machine: Machine) -> None:
    url = f"https://{setup.host}/v2/"
    machine.do(block(setup.printed, "Debian"), setup.authority)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(
        machine.inside(["curl", "-sS", "--cacert", "/etc/ssl/certs/ca-certificates.crt", url]),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "{}"
