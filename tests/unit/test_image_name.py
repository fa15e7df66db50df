from __future__ import annotations

import pytest

from mirror.errors import InvalidRequest
from mirror.oci.image_name import ImageName, ImageNames

DIGEST = "sha256:" + "a" * 64
NAMES = ImageNames(["docker.io", "ghcr.io", "hub"], default="docker.io")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("alpine", "docker.io/library/alpine"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"alpine:3.20@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        ("library/alpine", "docker.io/library/alpine"),
        ("grafana/grafana:latest", "docker.io/grafana/grafana:latest"),
        ("docker.io/alpine", "docker.io/library/alpine"),
        ("docker.io/library/alpine", "docker.io/library/alpine"),
        ("ghcr.io/owner/name", "ghcr.io/owner/name"),
        ("ghcr.io/name", "ghcr.io/name"),
        ("hub/name:1", "hub/name:1"),
        ("gone.example/owner/name:1", "gone.example/owner/name:1"),
        ("localhost:5000/name:1", "localhost:5000/name:1"),
    ],
)
def test_images_are_read_as_people_write_them(text: str, meant: str) -> None:
    found = NAMES.parse(text)
    assert str(found) == meant
    assert NAMES.parse(str(found)) == found


def test_where_an_image_has_to_be_latest_is_meant() -> None:
    assert str(NAMES.parse("alpine").reference_or_latest) == "latest"
    assert str(NAMES.parse("alpine:3").reference_or_latest) == "3"


def test_another_default_is_asked_where_none_is_named() -> None:
    assert str(ImageNames(["quay.io"], default="quay.io").parse("alpine")) == "quay.io/library/alpine"


@pytest.mark.parametrize(
    "text",
    ["", ":", "@", "alpine:", "alpine@", ":3.20", f"@{DIGEST}", "Alpine", "alpine:a b", "alpine@sha256:abc", "a//b",
     "alpine:3.20:1", "../etc", "docker.io/", "/alpine", "alpine:" + "a" * 129, "a" * 256, "ghcr.io/Owner/name"],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        NAMES.parse(text)


def test_a_name_without_a_reference_is_the_repository() -> None:
    assert NAMES.parse("alpine") == ImageName(NAMES.parse("alpine:1").repository)
