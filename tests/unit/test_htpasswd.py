from __future__ import annotations

import subprocess
from pathlib import Path

import bcrypt
import pytest

from mirror.errors import ConfigError
from mirror.web.htpasswd import Htpasswd
from tests.support.passwords import bcrypt_line

ANN = bcrypt_line("ann", "right")


def users_of(folder: Path, text: str | bytes) -> Htpasswd:
    path = folder / "htpasswd"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Htpasswd(path)


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_a_right_password_is_right_by_every_name_of_bcrypt(tmp_path: Path, prefix: str) -> None:
    users = users_of(tmp_path, f"# people\n\n{ANN.replace('$2y$', prefix)}\r\n").users
    assert users.verify("ann", b"right") is not None
    assert users.verify("ann", b"wrong") is None
    assert users.verify("bob", b"right") is None
    assert len(users) == 1


def test_what_apache_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    subprocess.run(["htpasswd", "-Bbc", path, "ann", "right"], check=True, capture_output=True)
    subprocess.run(["htpasswd", "-Bb", "-C", "6", path, "bob", "other"], check=True, capture_output=True)
    users = Htpasswd(path).users
    assert users.verify("ann", b"right")
    assert users.verify("bob", b"other")
    assert not users.verify("bob", b"right")


def test_a_password_longer_than_bcrypt_knows_counts_as_far_as_it_does(tmp_path: Path) -> None:
    users = users_of(tmp_path, bcrypt_line("ann", "x" * 72)).users
    assert users.verify("ann", b"x" * 100)
    assert not users.verify("ann", b"x" * 71)


def test_a_name_that_nobody_has_takes_as_long_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = users_of(tmp_path, f"{ANN}\n{bcrypt_line('bob', 'x')}").users
    checked = []
    original = bcrypt.checkpw

    def check(password: bytes, hashed: bytes) -> bool:
        checked.append(hashed)
        return original(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", check)
    for name in ("ann", "nobody", "", "\0", "nobody"):
        assert users.verify(name, b"?") is None
    assert len(checked) == 5
    assert checked[1] == checked[4]  # nor does it change from one time to the next


def test_a_password_that_fits_the_stand_in_lets_nobody_in(tmp_path: Path) -> None:
    users = users_of(tmp_path, ANN).users
    assert users.verify("nobody", b"right") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ann:$apr1$abc$defghij\n",
            "1: 'ann' is hashed by Apache's MD5, not by bcrypt; write it anew with htpasswd -B",
        ),
        (f"{ANN}\nbob:{{SHA}}abc=\n", "2: 'bob' is hashed by SHA-1, not by bcrypt; write it anew with htpasswd -B"),
        ("bob:$6$salt$hash\n", "1: 'bob' is hashed by SHA-512, not by bcrypt; write it anew with htpasswd -B"),
        ("bob:rqXexS6ZhobKA\n", "1: 'bob' is not hashed by bcrypt; write it anew with htpasswd -B"),
        ("bob:secret\n", "1: 'bob' is not hashed by bcrypt; write it anew with htpasswd -B"),
        (f"bob{ANN[3:-1]}\n", "1: 'bob' is not hashed by bcrypt; write it anew with htpasswd -B"),
        (
            ANN.replace("$04$", "$31$"),
            "1: 'ann' has a hash of cost 31, which is not 4 to 16; write it anew with htpasswd -B",
        ),
        (f"{ANN}\n{ANN}\n", "2: has 'ann' a second time"),
        ("ann\n", "1: is not a user, a colon and a hash"),
        (":x\n", "1: is not a user, a colon and a hash"),
        (b"# \n\xff:x\n", "2: is not UTF-8 text"),
        ("# nobody\n", " has no users; add one with htpasswd -B"),
        (b"#" * (16 * 1024 * 1024 + 1), " is larger than 16 MiB"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_shown_to_nobody(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        users_of(tmp_path, text)
    assert str(raised.value) == f"access.htpasswd: {tmp_path}/htpasswd:{message}"


@pytest.mark.parametrize(("name", "reason"), [("nothing", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Htpasswd(tmp_path / name)
