"""HTTPS: what is refused, certificates that are replaced, clients that have to show one."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from mirror.cli.authority import Authority, Made
from tests.support.faults import Fault, Slow
from tests.support.images import blob, oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.passwords import PASSWORD, USER, basic, write_htpasswd
from tests.support.process import RegistryProcess
from tests.support.waiting import wait_until

NAME = "library/app"
LOCAL = (ip_address("127.0.0.1"),)


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        yield started


@pytest.fixture(name="made")
def fixture_made(tmp_path: Path) -> Made:
    return make(tmp_path / "certs")


def make(folder: Path, *, now: datetime | None = None) -> Made:
    return Authority(folder).issue(LOCAL, now=now or datetime.now(UTC))


def tls_settings(made: Made, extra: str = "") -> str:
    return f'[server]\ntls_certificate = "{made.certificate}"\ntls_key = "{made.key}"\n{extra}'


class Whole(NamedTuple):
    body: bytes
    shown: bytes


def client_context(made: Made) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=made.authority)


def get(mirror: MirrorProcess, context: ssl.SSLContext, path: str) -> Whole:
    """Ask on a new connection; return the body, and the certificate that was shown."""
    connection = http.client.HTTPSConnection("127.0.0.1", mirror.port, context=context, timeout=30)
    try:
        connection.request("GET", path)
        assert isinstance(connection.sock, ssl.SSLSocket)
        shown = connection.sock.getpeercert(binary_form=True)
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        assert shown is not None
        return Whole(body, shown)
    finally:
        connection.close()


def events(mirror: MirrorProcess, name: str) -> list[dict[str, object]]:
    return [event for event in mirror.events() if event["event"] == name]


def test_a_certificate_replaced_under_load_fails_no_pull_and_drops_no_transfer(
    registry: RegistryProcess, made: Made
) -> None:
    image, slow = oci_image(900, layers=2, layer_bytes=300_000), blob(12_000_000, 901)
    registry.add(NAME, "load", image)
    registry.add_blob(NAME, slow)
    registry.fail(Fault(action=Slow(bytes_per_second=2_000_000), path=slow.digest))
    first = ssl.PEM_cert_to_DER_cert(made.certificate.read_text())
    stopped = threading.Event()
    context = client_context(made)
    with (
        MirrorProcess({"docker.io": registry.base_url}, workers=2, extra=tls_settings(made)) as mirror,
        ThreadPoolExecutor(8) as pool,
    ):

        def pull_on() -> tuple[int, set[bytes]]:
            pulls, shown = 0, set()
            while not stopped.is_set():
                manifest = get(mirror, context, f"/v2/{NAME}/manifests/load")
                parts = [get(mirror, context, f"/v2/{NAME}/blobs/{part.digest}") for part in image.blobs]
                assert manifest.body == image.manifest
                assert [one.body for one in parts] == [part.content for part in image.blobs]
                pulls += 1
                shown |= {manifest.shown, *(one.shown for one in parts)}
            return pulls, shown

        long = pool.submit(get, mirror, context, f"/v2/{NAME}/blobs/{slow.digest}")
        pullers = [pool.submit(pull_on) for _ in range(4)]
        wait_until(lambda: len(events(mirror, "request.served")) > 20, timeout_seconds=20)
        renewed = make(made.certificate.parent)
        second = ssl.PEM_cert_to_DER_cert(renewed.certificate.read_text())
        wait_until(lambda: len({event["pid"] for event in events(mirror, "tls.renewed")}) == 2, timeout_seconds=20)
        assert not long.done()  # it began under the first certificate
        assert {get(mirror, context, "/v2/").shown for _ in range(10)} == {second}
        stopped.set()
        results = [puller.result() for puller in pullers]
        assert all(pulls for pulls, _ in results)
        assert set.union(*(shown for _, shown in results)) == {first, second}
        assert long.result().body == slow.content


def test_files_that_do_not_fit_are_not_taken_up_and_said_to_be_wrong(registry: RegistryProcess, made: Made) -> None:
    good = made.certificate.read_bytes()
    with MirrorProcess({"docker.io": registry.base_url}, extra=tls_settings(made)) as mirror:
        context = client_context(made)
        shown = get(mirror, context, "/v2/").shown
        for wrong in (b"", good[:200], make(made.certificate.parent / "other").certificate.read_bytes()):
            before = len(events(mirror, "tls.not_renewed"))
            made.certificate.write_bytes(wrong)
            wait_until(lambda before=before: len(events(mirror, "tls.not_renewed")) > before, timeout_seconds=20)  # type: ignore[misc]
            assert get(mirror, context, "/v2/").shown == shown
        assert "is not the key of" in str(events(mirror, "tls.not_renewed")[-1]["error"])
        made.certificate.write_bytes(good)
        wait_until(lambda: bool(events(mirror, "tls.renewed")), timeout_seconds=20)
        assert get(mirror, context, "/v2/").shown == shown


def test_nothing_older_than_tls_1_2_is_spoken(registry: RegistryProcess, made: Made) -> None:
    with MirrorProcess({"docker.io": registry.base_url}, extra=tls_settings(made)) as mirror:
        for version, is_spoken in (("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)):
            context = client_context(made)
            context.set_ciphers("DEFAULT@SECLEVEL=0")
            with pytest.warns() if not is_spoken else pytest.MonkeyPatch.context():
                context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
            if is_spoken:
                assert get(mirror, context, "/v2/").body == b"{}"
            else:
                with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|EOF"):
                    get(mirror, context, "/v2/")


def test_a_handshake_that_does_not_end_is_cut_off(registry: RegistryProcess, made: Made) -> None:
    settings = tls_settings(made, 'header_timeout = "1s"\n')
    with MirrorProcess({"docker.io": registry.base_url}, extra=settings) as mirror:
        for begun in (b"", b"\x16\x03\x01\x02"):
            with socket.create_connection(("127.0.0.1", mirror.port), timeout=20) as connection:
                connection.sendall(begun)
                with contextlib.suppress(ConnectionError):
                    assert connection.recv(1) == b""
        assert get(mirror, client_context(made), "/v2/").body == b"{}"
        assert {event["level"] for event in mirror.events()} == {"info"}


def test_who_has_to_show_a_certificate_is_not_answered_without_one(registry: RegistryProcess, made: Made) -> None:
    clients = make(made.certificate.parent / "clients")
    settings = tls_settings(made, f'tls_client_ca = "{clients.authority}"\n')
    with MirrorProcess({"docker.io": registry.base_url}, extra=settings) as mirror:
        without, others, ours = client_context(made), client_context(made), client_context(made)
        # a server's certificate is one that its authority signed, but none for a client
        others.load_cert_chain(made.certificate, made.key)
        for context in (without, others):
            for path in ("/v2/", "/healthz", "/metrics"):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    get(mirror, context, path)
        key, certificate = signed_for_a_client(clients)
        ours.load_cert_chain(certificate, key)
        assert get(mirror, ours, "/v2/").body == b"{}"


def test_a_certificate_and_a_password_are_wanted_both(registry: RegistryProcess, made: Made, tmp_path: Path) -> None:
    clients = make(made.certificate.parent / "clients")
    passwords = write_htpasswd(tmp_path / "htpasswd", {USER: PASSWORD})
    settings = tls_settings(made, f'tls_client_ca = "{clients.authority}"\n[access]\nhtpasswd = "{passwords}"\n')
    with MirrorProcess({"docker.io": registry.base_url}, extra=settings) as mirror:
        without, ours = client_context(made), client_context(made)
        key, certificate = signed_for_a_client(clients)
        ours.load_cert_chain(certificate, key)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            status(mirror, without, basic(USER, PASSWORD))
        assert status(mirror, ours, {}) == 401
        assert status(mirror, ours, basic(USER, "wrong")) == 401
        assert status(mirror, ours, basic(USER, PASSWORD)) == 200
        assert not events(mirror, "access.password_unencrypted")


def status(mirror: MirrorProcess, context: ssl.SSLContext, headers: dict[str, str]) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", mirror.port, context=context, timeout=30)
    try:
        connection.request("GET", "/v2/", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def signed_for_a_client(authority: Made) -> tuple[Path, Path]:
    """Let openssl sign, as an operator would."""
    folder = authority.authority.parent
    key, request, certificate = (folder / f"client.{suffix}" for suffix in ("key", "csr", "crt"))
    made: list[str | Path] = [
        "openssl",
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=node",
        "-keyout",
        key,
        "-out",
        request,
    ]
    signed: list[str | Path] = [
        "openssl",
        "x509",
        "-req",
        "-in",
        request,
        "-CA",
        authority.authority,
        "-CAkey",
        folder / "ca.key",
    ]
    for command in (made, [*signed, "-CAcreateserial", "-days", "1", "-out", certificate]):
        subprocess.run(command, check=True, capture_output=True)
    return key, certificate


def test_a_slow_reader_holds_no_more_than_a_chunk_of_a_large_body(registry: RegistryProcess, made: Made) -> None:
    part = blob(80_000_000, 902)
    registry.add_blob(NAME, part)
    with MirrorProcess({"docker.io": registry.base_url}, extra=tls_settings(made)) as mirror:
        context = client_context(made)
        assert hashlib.sha256(get(mirror, context, f"/v2/{NAME}/blobs/{part.digest}").body).hexdigest() in part.digest
        before = resident_megabytes(mirror.pid)
        readers = []
        for _ in range(8):
            plain = socket.create_connection(("127.0.0.1", mirror.port))
            reader = context.wrap_socket(plain, server_hostname="127.0.0.1")
            reader.sendall(f"GET /v2/{NAME}/blobs/{part.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert reader.recv(1)
            readers.append(reader)
        get(mirror, context, f"/v2/{NAME}/blobs/{part.digest}")  # others are not held up
        grown = resident_megabytes(mirror.pid) - before
        for reader in readers:
            reader.close()
    assert grown < 30, grown  # 8 whole bodies are 640 MB


def resident_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def test_connections_that_are_kept_hold_little_memory(registry: RegistryProcess, made: Made) -> None:
    with MirrorProcess({"docker.io": registry.base_url}, extra=tls_settings(made)) as mirror:
        context = client_context(made)
        before = resident_megabytes(mirror.pid)
        kept = []
        for _ in range(200):
            plain = socket.create_connection(("127.0.0.1", mirror.port))
            kept.append(context.wrap_socket(plain, server_hostname="127.0.0.1"))
            kept[-1].sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert kept[-1].recv(1)
        grown = resident_megabytes(mirror.pid) - before
        for connection in kept:
            connection.close()
    assert grown < 50, grown  # with asyncio's own buffers 110


def test_a_certificate_that_ends_soon_is_warned_of(registry: RegistryProcess, tmp_path: Path) -> None:
    made = make(tmp_path / "certs", now=datetime.now(UTC) - timedelta(days=800))
    with MirrorProcess({"docker.io": registry.base_url}, extra=tls_settings(made)) as mirror:
        wait_until(lambda: bool(events(mirror, "tls.certificate_ending")), timeout_seconds=20)
        (event,) = events(mirror, "tls.certificate_ending")
        assert 23 <= int(str(event["days_left"])) <= 25


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: made.key.unlink(), "server.tls_key: cannot use {key}: No such file or directory"),
        (lambda made: made.certificate.write_text("x"), "server.tls_certificate: cannot use {certificate}: "),
        (lambda made: encrypt(made.key), "server.tls_key: cannot use {key}: it is encrypted"),
    ],
    ids=["missing", "garbage", "encrypted"],
)
def test_unusable_files_stop_the_start_with_their_names(
    made: Made, tmp_path: Path, change: Callable[[Made], None], reason: str
) -> None:
    change(made)
    config = tmp_path / "mirror.toml"
    config.write_text(tls_settings(made))
    command: list[str | Path] = [sys.executable, "-m", "mirror", "serve", "--config", config, "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    expected = reason.format(key=made.key, certificate=made.certificate)
    assert (done.returncode, done.stderr.startswith(f"mirror: {expected}"), done.stderr.count("\n")) == (2, True, 1)


def encrypt(key: Path) -> None:
    command: list[str | Path] = ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", key]
    subprocess.run(command, check=True, capture_output=True)
