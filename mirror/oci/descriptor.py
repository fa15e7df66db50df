"""Descriptors: media type, digest and size of content that is named elsewhere.

Spec: https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#properties
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NotRequired, TypedDict

from mirror.errors import DigestInvalid, ManifestInvalid, quote
from mirror.oci.digest import Digest
from mirror.oci.documents import check_object
from mirror.oci.media_types import is_foreign_layer

SIZE_LIMIT_BYTES: Final = 2**63 - 1
MEDIA_TYPE_LIMIT: Final = 255


class DescriptorJSON(TypedDict):
    """The wire's names; `read` turns them into a `Descriptor`."""

    mediaType: str
    digest: str
    size: int
    urls: NotRequired[list[str] | None]


_WIRE_NAMES: Final = frozenset(DescriptorJSON.__annotations__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What somebody says about content: to be believed only after the digest has been checked."""

    media_type: str
    digest: Digest
    size_bytes: int


def read(value: object) -> Descriptor:
    """Check one descriptor of parsed JSON.

    Raises:
        ManifestInvalid: not an object, or a media type, digest or size that cannot be.
    """
    fields = check_object(value, _WIRE_NAMES, what="a descriptor")
    media_type, digest, size = fields.get("mediaType"), fields.get("digest"), fields.get("size")
    if not isinstance(media_type, str) or not _is_plausible(media_type):
        raise ManifestInvalid("a descriptor has no usable mediaType")
    if type(size) is not int or not 0 <= size <= SIZE_LIMIT_BYTES:  # a bool is an int too
        raise ManifestInvalid(f"a descriptor of {quote(media_type)} has no usable size")
    if not isinstance(digest, str):
        raise ManifestInvalid(f"a descriptor of {quote(media_type)} has no digest")
    try:
        return Descriptor(media_type=media_type, digest=Digest.parse(digest), size_bytes=size)
    except DigestInvalid as error:
        raise ManifestInvalid(f"a descriptor of {quote(media_type)} has no usable digest: {error}") from error


def lies_elsewhere(value: object) -> bool:
    """Tell whether a descriptor's content is not the registry's to give: a foreign layer, or one with ``urls``.

    Such content is never fetched: a manifest's URLs are its author's, and may point anywhere (CVE-2020-15157).
    """
    if not isinstance(value, dict):
        return False
    media_type = value.get("mediaType")
    return bool(value.get("urls")) or (isinstance(media_type, str) and is_foreign_layer(media_type))


def _is_plausible(media_type: str) -> bool:
    return 0 < len(media_type) <= MEDIA_TYPE_LIMIT and media_type.isascii() and media_type.isprintable()
