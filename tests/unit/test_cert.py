from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from mirror.cli.authority import Authority, ServerName
from mirror.cli.main import main
from mirror.errors import StorageError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES: tuple[ServerName, ...] = ("mirror.test", "*.mirror.test", ip_address("10.0.0.1"), ip_address("::1"))
FILES = ("ca.crt", "ca.key", "server.crt", "server.key")


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_certificate_is_good_for_each_name_and_for_no_other(tmp_path: Path) -> None:
    made = Authority(tmp_path).issue(NAMES, now=NOW)
    builder = PolicyBuilder().store(Store([read(made.authority)])).time(NOW + timedelta(days=824))
    for subject in (x509.DNSName("mirror.test"), x509.DNSName("a.mirror.test"), x509.IPAddress(ip_address("::1"))):
        assert builder.build_server_verifier(subject).verify(read(made.certificate), [])
    with pytest.raises(x509.verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("other.test")).verify(read(made.certificate), [])


def test_keys_are_their_owners_alone(tmp_path: Path) -> None:
    Authority(tmp_path).issue(NAMES, now=NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    assert [oct(stat.S_IMODE((tmp_path / name).stat().st_mode)) for name in FILES] == ["0o644", "0o600"] * 2


def test_running_it_again_renews_the_certificate_alone(tmp_path: Path) -> None:
    Authority(tmp_path).issue(NAMES, now=NOW)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    made = Authority(tmp_path).issue(Authority(tmp_path).names(), now=NOW + timedelta(days=100))
    changed = [name for name in FILES if (tmp_path / name).read_bytes() != before[name]]
    assert changed == ["server.crt"]
    assert (made.names, made.is_new_authority) == (NAMES, False)
    assert made.certificate_ends == NOW + timedelta(days=925)


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    first = Authority(tmp_path).issue(NAMES, now=NOW)
    made = Authority(tmp_path).issue(NAMES, now=NOW + timedelta(days=3600))
    assert made.certificate_ends == first.authority_ends


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "ca.key").unlink(), "ca.key is missing"),
        (lambda folder: (folder / "ca.crt").unlink(), "ca.crt is missing"),
        (lambda folder: (folder / "ca.crt").write_text("x"), "ca.crt is not a PEM certificate"),
        (lambda folder: (folder / "ca.key").write_text("x"), "ca.key is not a PEM key"),
        (lambda folder: (folder / "server.key").write_text("x"), "server.key is not a PEM key"),
        (lambda folder: (folder / "server.key").replace(folder / "ca.key"), "ca.key is not the key of"),
    ],
)
def test_damaged_files_are_named_and_left_alone(tmp_path: Path, change, reason: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    Authority(tmp_path).issue(NAMES, now=NOW)
    change(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StorageError, match=reason):
        Authority(tmp_path).issue(NAMES, now=NOW)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_authority_that_has_ended_signs_nothing(tmp_path: Path) -> None:
    Authority(tmp_path).issue(NAMES, now=NOW)
    with pytest.raises(StorageError, match="has ended"):
        Authority(tmp_path).issue(NAMES, now=NOW + timedelta(days=3651))


@pytest.mark.parametrize("name", ["https://mirror.test", "mirror.test:5000", "a/b", "", "10.0.0.256", "a..b", "ä.test"])
def test_what_is_no_name_is_refused_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["cert", name, "--dir", str(tmp_path / "certs")]) == 2
    assert "is no host name or address" in capsys.readouterr().err
    assert not (tmp_path / "certs").exists()


def test_the_steps_use_the_configured_port_and_none_for_443(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mirror.toml"
    for listen, host in (("0.0.0.0:443", "mirror.test"), ("0.0.0.0:8443", "mirror.test:8443")):
        config.write_text(f'[server]\nlisten = ["{listen}"]\n')
        assert main(["cert", "mirror.test", "--dir", str(tmp_path / "certs"), "--config", str(config)]) == 0
        assert f'{{ "registry-mirrors": ["https://{host}"] }}' in capsys.readouterr().out


def test_without_names_it_is_for_this_machine(tmp_path: Path) -> None:
    assert main(["cert", "--dir", str(tmp_path)]) == 0
    assert {"localhost", ip_address("127.0.0.1"), ip_address("::1")} <= set(Authority(tmp_path).names())
