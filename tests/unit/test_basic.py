from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.http.basic import parse_basic


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=":")), st.binary())
def test_name_and_password_come_back(name: str, password: bytes) -> None:
    encoded = base64.b64encode(name.encode() + b":" + password).decode()
    assert parse_basic(f"Basic {encoded}") == (name, password)
    assert parse_basic(f"bASIC   {encoded} ") == (name, password)


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic ", "Bearer YTpi", "Basic YTpi!", "Basic YTp", "YTpi", "Basic YQ==", "Basic /zpi", "Basic ä"],
)
def test_what_is_no_name_and_password(header: str) -> None:
    assert parse_basic(header) is None


@given(st.text())
def test_anything_is_read_or_refused(text: str) -> None:
    parse_basic(text)
    parse_basic(f"Basic {text}")
