from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import PlatformInvalid
from mirror.oci.digest import Digest
from mirror.oci.platforms import Platform, read_platforms

words = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)
ONE, TWO, THREE = (Digest.of(content) for content in (b"1", b"2", b"3"))


@given(words, words, st.none() | words)
def test_a_platform_reads_back_as_it_was_written(os: str, architecture: str, variant: str | None) -> None:
    platform = Platform.parse(str(Platform(os, architecture, variant)))
    assert (platform.os, platform.variant) == (os, variant)
    assert Platform.parse(str(platform)) == platform


@given(st.text())
def test_any_text_is_a_platform_or_raises_its_own_error(text: str) -> None:
    with contextlib.suppress(PlatformInvalid):
        assert Platform.parse(text).os


@pytest.mark.parametrize(
    ("wanted", "offered", "is_meant"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/x86_64", "linux/amd64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm", "linux/arm/v6", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm/v7", "linux/arm", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/amd64", "linux/arm64", False),
    ],
)
def test_what_is_meant_by_a_platform(wanted: str, offered: str, is_meant: bool) -> None:  # noqa: FBT001 - a row of the table
    assert Platform.parse(wanted).includes(Platform.parse(offered)) == is_meant


def test_only_entries_that_say_so_are_for_a_platform() -> None:
    entries = [
        {"digest": str(ONE), "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}},
        {"digest": str(TWO), "platform": {"os": "unknown", "architecture": "unknown"}},
        {"digest": str(THREE), "platform": {"os": "linux"}},
        {"digest": "md5:0", "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": str(THREE)},
        7,
    ]
    found = read_platforms(json.dumps({"manifests": entries}).encode())
    assert found == {ONE: Platform("linux", "arm", "v7"), TWO: Platform("unknown", "unknown")}
    assert found[TWO].is_unknown
    assert read_platforms(b'{"manifests": null}') == {}
