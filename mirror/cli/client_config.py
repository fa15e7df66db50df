"""``mirror client-config``: a client's own configuration for using this mirror, ready to paste or redirect."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never
from urllib.parse import urlsplit

from mirror.cli.options import add_config_option, load_config
from mirror.config import TcpAddress, values
from mirror.config.settings import DOCKER_HUB
from mirror.errors import NameInvalid, UsageError, quote
from mirror.oci.reference import parse_repository_name

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from mirror.config import Config

_EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what is listened on is the operator's choice


class ClientKind(StrEnum):
    """The clients whose configuration can be printed."""

    DOCKER = "docker"
    CONTAINERD = "containerd"
    PODMAN = "podman"
    BUILDKIT = "buildkit"
    K3S = "k3s"
    GITLAB_RUNNER = "gitlab-runner"


_PLACES = {
    ClientKind.DOCKER: "/etc/docker/daemon.json, then: systemctl reload docker",
    ClientKind.CONTAINERD: "/etc/containerd/certs.d/_default/hosts.toml",
    ClientKind.PODMAN: "/etc/containers/registries.conf.d/mirror.conf",
    ClientKind.BUILDKIT: "buildkitd.toml, then: docker buildx create --use --buildkitd-config buildkitd.toml",
    ClientKind.K3S: "/etc/rancher/k3s/registries.yaml (RKE2: /etc/rancher/rke2/registries.yaml), then restart it",
    ClientKind.GITLAB_RUNNER: "the [[runners]] of the runner's config.toml",
}


@dataclass(frozen=True, slots=True)
class MirrorUrl:
    """Where clients reach the mirror: ``http`` or ``https``, a host with or without a port, a path prefix or none."""

    text: str

    @classmethod
    def parse(cls, text: str) -> MirrorUrl:
        """Read a URL; a path must be one that clients without a scheme can write, too.

        Raises:
            UsageError: it is none, or has a part that no client can be given.
        """
        try:
            url = cls(values.ENDPOINT.read(text))
            if url.path:
                parse_repository_name(url.path.removeprefix("/"))
        except values.Unfit as error:
            raise UsageError(f"--url {error}") from error
        except NameInvalid as error:
            raise UsageError(f"the path in --url cannot be used by every client: {error}") from error
        return url

    @property
    def host(self) -> str:
        """Host, and port where there is one."""
        return urlsplit(self.text).netloc

    @property
    def path(self) -> str:
        """Empty, or ``/prefix``."""
        return urlsplit(self.text).path

    @property
    def location(self) -> str:
        """The URL without its scheme, as it stands in an image's name."""
        return self.host + self.path

    @property
    def is_plain(self) -> bool:
        """Whether it is plain HTTP, which most clients have to be told."""
        return urlsplit(self.text).scheme == "http"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("client-config", help="print a client's configuration for using this mirror")
    parser.add_argument("client", choices=[kind.value for kind in ClientKind], help="whose configuration")
    parser.add_argument("--url", metavar="URL", help="where clients reach the mirror; default: this host's name")
    add_config_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the configuration on standard output, and where it belongs on standard error.

    Raises:
        ConfigError, UsageError: the configuration, or what was typed, cannot be used.
    """
    config = load_config(options)
    url = default_url(config) if options.url is None else MirrorUrl.parse(options.url)
    kind = ClientKind(options.client)
    print(written(kind, url, config))
    print(f"This belongs into {_PLACES[kind]}", file=sys.stderr)
    return 0


def default_url(config: Config) -> MirrorUrl:
    """Return the first address that is listened on, by this host's name where that is every address.

    Raises:
        UsageError: none is known: all are Unix sockets, or the system chooses the port.
    """
    for address in config.server.listen:
        if isinstance(address, TcpAddress) and address.port:
            return url_of(address, config)
    raise UsageError("the configuration has no address with a port; say where clients reach the mirror: --url URL")


def url_of(address: TcpAddress, config: Config) -> MirrorUrl:
    """Return the URL of an address that is listened on, by this host's name where that is every address."""
    host = socket.gethostname() if address.host in _EVERY_ADDRESS else address.host
    scheme = "http" if config.server.tls is None else "https"
    return MirrorUrl.parse(f"{scheme}://{TcpAddress(host, address.port)}")


def written(kind: ClientKind, url: MirrorUrl, config: Config) -> str:
    """Return a client's configuration, in its own format.

    Raises:
        UsageError: the client pulls through mirrors from Docker Hub only, which is not an upstream.
    """
    match kind:
        case ClientKind.DOCKER:
            return json.dumps(_docker(url, config), indent=2)
        case ClientKind.CONTAINERD:
            return _containerd(url)
        case ClientKind.PODMAN:
            return _podman(url, config.upstreams)
        case ClientKind.BUILDKIT:
            return _buildkit(url, config.upstreams)
        case ClientKind.K3S:
            return _k3s(url, config.upstreams)
        case ClientKind.GITLAB_RUNNER:
            return _gitlab_runner(url, config)
        case _:
            assert_never(kind)


def _docker(url: MirrorUrl, config: Config) -> dict[str, list[str]]:
    settings = {"registry-mirrors": [_hub_url(url, config)]}
    return settings | ({"insecure-registries": [url.host]} if url.is_plain else {})


def _hub_url(url: MirrorUrl, config: Config) -> str:
    """Return what Docker is given, which names no registry: with a path where Docker Hub is not the default upstream.

    Docker takes a path from version 24 on.
    """
    if DOCKER_HUB not in config.upstreams:
        raise UsageError(f"Docker uses mirrors for {DOCKER_HUB} only, and {quote(DOCKER_HUB)} is not an upstream here")
    return url.text if config.default_upstream.name == DOCKER_HUB else f"{url.text}/{DOCKER_HUB}"


def _containerd(url: MirrorUrl) -> str:
    """One folder, ``_default``, serves every registry: containerd names the one that is meant."""
    return f'[host.{_quoted(url.text)}]\n  capabilities = ["pull", "resolve"]\n  dial_timeout = "2s"'


def _podman(url: MirrorUrl, upstreams: Iterable[str]) -> str:
    insecure = "\ninsecure = true" if url.is_plain else ""
    return "\n\n".join(
        f"[[registry]]\nprefix = {_quoted(name)}\nlocation = {_quoted(name)}\n\n"
        f"[[registry.mirror]]\nlocation = {_quoted(f'{url.location}/{name}')}{insecure}"
        for name in upstreams
    )


def _buildkit(url: MirrorUrl, upstreams: Iterable[str]) -> str:
    tables = [f"[registry.{_quoted(name)}]\n  mirrors = [{_quoted(url.location)}]" for name in upstreams]
    if url.is_plain:
        tables.append(f"[registry.{_quoted(url.host)}]\n  http = true")
    return "\n\n".join(tables)


def _k3s(url: MirrorUrl, upstreams: Iterable[str]) -> str:
    """A path is taken for the whole path: k3s puts /v2 only where there is none."""
    endpoint = _quoted(f"{url.text}/v2" if url.path else url.text)
    entries = (f"  {_quoted(name)}:\n    endpoint: [{endpoint}]" for name in upstreams)
    return "\n".join(("mirrors:", *entries))


def _gitlab_runner(url: MirrorUrl, config: Config) -> str:
    command = ["--registry-mirror", _hub_url(url, config)]
    if url.is_plain:
        command += ["--insecure-registry", url.host]
    return f'[[runners.docker.services]]\n  name = "docker:29-dind"\n  command = {json.dumps(command)}'


def _quoted(text: str) -> str:
    """Quote ASCII for TOML or YAML, both of which take JSON's strings."""
    return json.dumps(text)
