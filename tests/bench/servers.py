"""The servers that are measured side by side, each with one process that serves, before the same upstream."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mirror import __version__
from tests.support.debian_registry import COMMAND as DOCKER_REGISTRY
from tests.support.debian_registry import DebianRegistry, Upstream
from tests.support.mirrors import MirrorProcess
from tests.support.ports import end_process, free_port, start_process, wait_for_port

_NUMBER = re.compile(r"\d+(?:\.\d+)+")
_NGINX_CONFIG = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  open_file_cache max=1000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  default_type application/octet-stream;
  {server}
}}
"""
_LOOK_AGAIN_SECONDS = 0.01
LONG_TAGS = '[cache]\ntag_ttl = "1h"\n'
"""A setting with which no tag runs out while it is measured; drayage's are good for 15 minutes."""
_FILES = "server {{ listen 127.0.0.1:{port}; root {root}; }}"
_TLS = """upstream mirror {{ server {target}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    location / {{
      proxy_pass http://mirror;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_buffers 8 256k;
      proxy_buffer_size 256k;
      proxy_max_temp_file_size 0;
    }}
  }}"""
_DRAYAGE_CONFIG = """
listen = "127.0.0.1:{port}"
cache_dir = "{folder}/cache"
[upstreams.docker_io]
registry = "{upstream}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that runs: where it answers, and the processes that do so."""

    name: str
    version: str
    base_url: str
    pids: Sequence[int]

    def url(self, path: str) -> str:
        """Return the address of a path below the repository that is measured."""
        return f"{self.base_url}/v2/library/app/{path}"


Start = Callable[[str, Path], AbstractContextManager[Server]]
"""Starts one as a cache of the upstream at a URL, with a folder of its own."""


def find_drayage() -> str:
    """Return the command, which PyPI's package installs beside Python."""
    beside = Path(sys.executable).with_name("drayage")
    return str(beside) if beside.exists() else shutil.which("drayage") or "drayage"


def _version(*command: str) -> str:
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    found = _NUMBER.search(told.stdout + told.stderr)
    return "?" if found is None else found.group()


@contextmanager
def mirror(upstream: str, folder: Path, *, workers: int = 1, extra: str = "") -> Iterator[Server]:
    """Run the mirror as its users do: a log line for each request, into a file."""
    folder.mkdir(parents=True, exist_ok=True)
    with MirrorProcess({"docker.io": upstream}, folder=folder, workers=workers, extra=extra) as process:
        while len(process.worker_pids) < workers:  # the port is open before they are forked
            time.sleep(_LOOK_AGAIN_SECONDS)
        yield Server(name="mirror", version=__version__, base_url=process.base_url, pids=process.worker_pids)


@contextmanager
def docker_registry(upstream: str, folder: Path) -> Iterator[Server]:
    """Run Debian's docker-registry as a proxy; it logs warnings only."""
    with DebianRegistry(upstream=Upstream(url=upstream), folder=folder) as process:
        version = _version(DOCKER_REGISTRY, "--version")
        yield Server(name="docker-registry", version=version, base_url=process.base_url, pids=[process.pid])


@contextmanager
def drayage(upstream: str, folder: Path) -> Iterator[Server]:
    """Run drayage, which logs no requests."""
    port = free_port()
    (folder / "cache").mkdir(parents=True)
    config = folder / "config.toml"
    config.write_text(_DRAYAGE_CONFIG.format(port=port, folder=folder, upstream=upstream), encoding="utf-8")
    command = [find_drayage(), "serve", "--config", str(config)]
    with _running(command, port, folder) as pid:
        version = _version(find_drayage(), "--version")
        yield Server(name="drayage", version=version, base_url=f"http://127.0.0.1:{port}", pids=[pid])


@contextmanager
def nginx(files: Mapping[str, bytes], folder: Path) -> Iterator[Server]:
    """Serve files by path from disk, without a log: what the machine can do."""
    root = folder / "files"
    for path, content in files.items():
        target = root / "v2/library/app" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    port = free_port()
    with running_nginx(_FILES.format(port=port, root=root), port, folder) as server:
        yield server


@contextmanager
def nginx_before(server: Server, folder: Path) -> Iterator[Server]:
    """Speak TLS before another server."""
    folder.mkdir(parents=True)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    block = _TLS.format(port=port, folder=folder, target=server.base_url.removeprefix("http://"))
    with running_nginx(block, port, folder, scheme="https") as front:
        yield replace(front, pids=[*front.pids, *server.pids])


@contextmanager
def mirror_with_tls(upstream: str, folder: Path) -> Iterator[Server]:
    """Run the mirror with the certificate that `nginx_before` has made in the same folder."""
    files = f'tls_certificate = "{folder}/certificate.pem"\ntls_key = "{folder}/key.pem"\n'
    with mirror(upstream, folder / "mirror", extra=f"[server]\n{files}") as server:
        yield replace(server, base_url=server.base_url.replace("http:", "https:"))


@contextmanager
def running_nginx(server: str, port: int, folder: Path, *, scheme: str = "http") -> Iterator[Server]:
    """Run nginx with one ``server`` block."""
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    config.write_text(_NGINX_CONFIG.format(folder=folder, server=server), encoding="utf-8")
    with _running(["nginx", "-e", str(folder / "error.log"), "-c", str(config)], port, folder) as pid:
        base_url = f"{scheme}://127.0.0.1:{port}"
        yield Server(name="nginx", version=_version("nginx", "-v"), base_url=base_url, pids=[pid])


@contextmanager
def _running(command: Sequence[str], port: int, folder: Path) -> Iterator[int]:
    with (folder / "log").open("ab") as log:
        process = start_process(command, output=log, errors=log, folder=folder)
    try:
        wait_for_port(port, process=process)
        yield process.pid
    finally:
        end_process(process)
