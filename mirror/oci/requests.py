"""What a client asks for, read from its path and query.

Names here are the client's: they may begin with an upstream, and lack ``library/``. `mirror.web.routes` resolves them.

Endpoints: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#endpoints
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from mirror.errors import InvalidRequest, NameInvalid, NameUnknown, PageInvalid, Unsupported, quote
from mirror.oci.digest import Digest
from mirror.oci.reference import NAME_LIMIT, Reference, parse_reference, parse_repository_name

TEXT_LIMIT: Final = 255
"""Characters in ``last`` and ``artifactType``, which go upstream or into an answer."""

_PORT_PREFIX: Final = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*:[0-9]{1,5}/")
_COUNT: Final = re.compile(r"[0-9]{1,9}")


class Kind(StrEnum):
    """What a request is about: a metric's label and a log's key."""

    MANIFEST = "manifest"
    BLOB = "blob"
    TAGS = "tags"
    REFERRERS = "referrers"
    SEARCH = "search"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list is wanted: at most ``limit`` entries, those after ``last``."""

    limit: int | None = None
    last: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """``/v2/``: is this a registry?"""

    kind: ClassVar[Kind] = Kind.OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRequest:
    """``/v2/_catalog``: the names of all repositories."""

    kind: ClassVar[Kind] = Kind.OTHER
    page: Page


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRequest:
    """``/v2/<name>/manifests/<reference>``."""

    kind: ClassVar[Kind] = Kind.MANIFEST
    name: str
    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRequest:
    """``/v2/<name>/blobs/<digest>``; containerd asks for manifests here too."""

    kind: ClassVar[Kind] = Kind.BLOB
    name: str
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class TagsRequest:
    """``/v2/<name>/tags/list``."""

    kind: ClassVar[Kind] = Kind.TAGS
    name: str
    page: Page


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferrersRequest:
    """``/v2/<name>/referrers/<digest>``: the manifests whose subject is this digest."""

    kind: ClassVar[Kind] = Kind.REFERRERS
    name: str
    digest: Digest
    artifact_type: str | None


Request = Ping | CatalogRequest | ManifestRequest | BlobRequest | TagsRequest | ReferrersRequest


def parse_path(path: str, query: Mapping[str, str] | None = None) -> Request:
    """Read what a ``GET`` or ``HEAD`` asks for.

    A name may hold any of the endpoints' words, so the path is taken apart from its right-hand end.

    Args:
        path: what follows ``/v2`` or ``/v2/``, percent-decoded once.
        query: the first value of each parameter, decoded.

    Raises:
        NameUnknown: the path is no endpoint.
        Unsupported: the path is an endpoint for pushing.
        InvalidRequest: a name, reference, digest or page that cannot be.
    """
    query = query or {}
    path = path.removeprefix("/")
    if not path:
        return Ping()
    if path == "_catalog":
        return CatalogRequest(page=parse_page(query))
    head, _, tail = path.rpartition("/")
    name, _, endpoint = head.rpartition("/")
    if (name.endswith("/blobs") and endpoint == "uploads") or (endpoint == "blobs" and tail == "uploads"):
        raise Unsupported("uploads are not supported: this is a pull-through mirror")
    match endpoint:
        case "manifests":
            return ManifestRequest(name=_name(name), reference=parse_reference(tail))
        case "blobs":
            return BlobRequest(name=_name(name), digest=Digest.parse(tail))
        case "tags" if tail == "list":
            return TagsRequest(name=_name(name), page=parse_page(query))
        case "referrers":
            artifact_type = _text(query.get("artifactType"), "artifactType", InvalidRequest)
            return ReferrersRequest(name=_name(name), digest=Digest.parse(tail), artifact_type=artifact_type)
        case _:
            raise NameUnknown(f"{quote(path)} is not an endpoint of this registry")


def parse_page(query: Mapping[str, str]) -> Page:
    """Read ``n`` and ``last``.

    Raises:
        PageInvalid: ``n`` is not a count, or ``last`` cannot be a name.
    """
    count = query.get("n", "")
    if count and _COUNT.fullmatch(count) is None:
        raise PageInvalid(f"n={quote(count)} is not a number of entries")
    return Page(limit=int(count) if count else None, last=_text(query.get("last"), "last", PageInvalid))


def _name(text: str) -> str:
    """Check a client's name, which may begin with an upstream's host and port."""
    if len(text) > NAME_LIMIT:
        raise NameInvalid(f"{quote(text)} is longer than {NAME_LIMIT} characters")
    prefix = _PORT_PREFIX.match(text)
    parse_repository_name(text[prefix.end() :] if prefix else text)
    return text


def _text(text: str | None, name: str, error: type[InvalidRequest]) -> str | None:
    """Check a parameter that is passed on: short, and of printable ASCII; an empty one counts as none."""
    if not text:
        return None
    if len(text) > TEXT_LIMIT or not text.isascii() or not text.isprintable():
        raise error(f"{name}={quote(text)} is not usable")
    return text
