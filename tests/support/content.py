"""What a test registry holds: repositories with their manifests, blobs, tags and referrers.

Bytes are files named by digest, and every change is a line in a journal beside them, so that a registry that was killed
has the same content when it is started again on the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.images import Blob, Image, Index, Pullable, digest_of

SMALL_BYTES = 1 << 18
_JOURNAL = "journal.jsonl"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of bytes: of a file, or of something in memory."""

    source: bytes | Path
    offset: int
    length: int


Body = tuple[Part, ...]


def body_of(content: bytes) -> Body:
    """Make a body of bytes in memory."""
    return (Part(content, 0, len(content)),)


def length_of(body: Body) -> int:
    """Add up the parts."""
    return sum(part.length for part in body)


def cut_out(body: Body, first: int, length: int) -> Body:
    """Return `length` bytes from position `first` on."""
    parts: list[Part] = []
    for part in body:
        start, stop = max(first, 0), min(first + length, part.length)
        if start < stop:
            parts.append(Part(part.source, part.offset + start, stop - start))
        first -= part.length
    return tuple(parts)


def read_all(body: Body) -> bytes:
    """Read a body into memory."""
    return b"".join(_read(part) for part in body)


def flip_byte(body: Body, position: int) -> Body:
    """Change one byte; a negative position counts from the end."""
    size = length_of(body)
    position = position + size if position < 0 else position
    if not 0 <= position < size:
        return body
    flipped = bytes([read_all(cut_out(body, position, 1))[0] ^ 0xFF])
    return (*cut_out(body, 0, position), *body_of(flipped), *cut_out(body, position + 1, size))


def _read(part: Part) -> bytes:
    if isinstance(part.source, bytes):
        return part.source[part.offset : part.offset + part.length]
    with part.source.open("rb") as file:
        file.seek(part.offset)
        return file.read(part.length)


@dataclass(slots=True)
class _Repository:
    manifests: dict[str, str] = field(default_factory=dict)  # digest -> media type
    blobs: dict[str, None] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Content:
    """Repositories in memory, their bytes in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._repositories: dict[str, _Repository] = {}
        self._small: dict[str, bytes] = {}
        self._journal = (folder / _JOURNAL).open("a+b", buffering=0)
        self._journal.seek(0)
        for line in self._journal.read().splitlines():
            self._change(json.loads(line))

    def close(self) -> None:
        """Close the journal; the folder stays."""
        self._journal.close()

    @property
    def folder(self) -> Path:
        """Where everything is."""
        return self._folder

    @property
    def names(self) -> list[str]:
        """The repositories, sorted."""
        return sorted(self._repositories)

    def apply(self, changes: Iterable[Mapping[str, Any]]) -> None:
        """Make changes, and write them down; the bytes they speak of are in the folder already."""
        for change in changes:
            self._change(change)
            self._journal.write(json.dumps(change).encode() + b"\n")

    def tags(self, repository: str) -> list[str] | None:
        """The tags of a repository, sorted, or None if there is no such repository."""
        found = self._repositories.get(repository)
        return None if found is None else sorted(found.tags)

    def find_manifest(self, repository: str, reference: str) -> tuple[str, str, bytes] | None:
        """Return digest, media type and bytes of a tag or digest."""
        found = self._repositories.get(repository)
        if found is None:
            return None
        digest = found.tags.get(reference, reference)
        media_type = found.manifests.get(digest)
        return None if media_type is None else (digest, media_type, self._bytes(digest))

    def find_blob(self, repository: str, digest: str) -> Body | None:
        """Return the body of a blob that this repository holds."""
        found = self._repositories.get(repository)
        if found is None or (digest not in found.blobs and digest not in found.manifests):
            return None
        return self.open_blob(digest)

    def open_blob(self, digest: str) -> Body | None:
        """Return the body of a blob that any repository holds."""
        if digest in self._small:
            return body_of(self._small[digest])
        path = path_of(self._folder, digest)
        if not path.exists():
            return None
        size = path.stat().st_size
        return body_of(self._bytes(digest)) if size <= SMALL_BYTES else (Part(path, 0, size),)

    def referrers(self, repository: str, subject: str) -> list[dict[str, Any]]:
        """Return descriptors of the manifests in this repository that refer to a digest."""
        found = self._repositories.get(repository, _Repository())
        answers = []
        for digest, media_type in found.manifests.items():
            manifest = json.loads(self._bytes(digest))
            if (manifest.get("subject") or {}).get("digest") == subject:
                answers.append(_referrer(digest, media_type, manifest, len(self._bytes(digest))))
        return answers

    def _bytes(self, digest: str) -> bytes:
        content = self._small.get(digest)
        if content is None:
            content = self._small[digest] = path_of(self._folder, digest).read_bytes()
        return content

    def _change(self, change: Mapping[str, Any]) -> None:
        repository = self._repositories.setdefault(change["repository"], _Repository())
        match change["do"]:
            case "manifest":
                repository.manifests[change["digest"]] = change["media_type"]
            case "blob":
                repository.blobs[change["digest"]] = None
            case "tag":
                repository.tags[change["tag"]] = change["digest"]
            case "untag":
                repository.tags.pop(change["tag"], None)
            case "forget":
                repository.manifests.pop(change["digest"], None)
                repository.blobs.pop(change["digest"], None)
            case unknown:
                message = f"no such change: {unknown}"
                raise ValueError(message)


def path_of(folder: Path, digest: str) -> Path:
    """Return where the bytes of a digest are."""
    return folder / digest.replace(":", "-")


def store(folder: Path, digest: str, content: bytes) -> None:
    """Put bytes where a registry on this folder finds them."""
    path = path_of(folder, digest)
    if not path.exists():
        path.write_bytes(content)


def add_changes(folder: Path, repository: str, tag: str | None, pullable: Pullable) -> list[dict[str, Any]]:
    """Store an image or index, and return the changes that make it part of a repository."""
    changes: list[dict[str, Any]] = []
    for image in pullable.images if isinstance(pullable, Index) else (pullable,):
        changes += [change for blob in image.blobs for change in blob_changes(folder, repository, blob)]
        changes.append(_manifest_change(folder, repository, image))
    if isinstance(pullable, Index):
        changes.append(_manifest_change(folder, repository, pullable))
    if tag is not None:
        changes.append(tag_change(repository, tag, pullable.digest))
    return changes


def manifest_changes(
    folder: Path, repository: str, tag: str | None, body: bytes, media_type: str
) -> tuple[list[dict[str, Any]], str]:
    """Store any bytes as a manifest; return the changes and the digest."""
    digest = digest_of(body)
    store(folder, digest, body)
    changes = [{"do": "manifest", "repository": repository, "digest": digest, "media_type": media_type}]
    if tag is not None:
        changes.append(tag_change(repository, tag, digest))
    return changes, digest


def blob_changes(folder: Path, repository: str, blob: Blob) -> list[dict[str, Any]]:
    """Store a blob, and return the change that makes it part of a repository."""
    store(folder, blob.digest, blob.content)
    return [{"do": "blob", "repository": repository, "digest": blob.digest}]


def tag_change(repository: str, tag: str, digest: str) -> dict[str, Any]:
    """Return the change that points a tag at a manifest."""
    return {"do": "tag", "repository": repository, "tag": tag, "digest": digest}


def untag_change(repository: str, tag: str) -> dict[str, Any]:
    """Return the change that removes a tag."""
    return {"do": "untag", "repository": repository, "tag": tag}


def forget_change(repository: str, digest: str) -> dict[str, Any]:
    """Return the change that removes a manifest or blob from a repository."""
    return {"do": "forget", "repository": repository, "digest": digest}


def _manifest_change(folder: Path, repository: str, pullable: Image | Index) -> dict[str, Any]:
    store(folder, pullable.digest, pullable.manifest)
    return {
        "do": "manifest",
        "repository": repository,
        "digest": pullable.digest,
        "media_type": pullable.media_type,
    }


def _referrer(digest: str, media_type: str, manifest: Mapping[str, Any], size_bytes: int) -> dict[str, Any]:
    artifact_type = manifest.get("artifactType") or manifest.get("config", {}).get("mediaType")
    return {
        "mediaType": media_type,
        "digest": digest,
        "size": size_bytes,
        "artifactType": artifact_type,
        "annotations": manifest.get("annotations", {}),
    }
