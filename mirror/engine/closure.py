"""An image and all that it needs, of what is there: in the store, or in an archive.

An index is worth having when one of its platforms is all there. What is missing of the others is told, not fetched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from mirror.errors import MirrorError
from mirror.oci.platforms import Platform, read_platforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.oci.descriptor import Descriptor
    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest

_DEEPEST: Final = 4  # an index of indexes is allowed, and two levels have been seen


class Incomplete(MirrorError):
    """Not all of an image is there; the message says what is missing, and nothing else."""


class Holdings(Protocol):
    """Where an image is looked for."""

    async def find_manifests(self, descriptors: Sequence[Descriptor]) -> Sequence[Manifest | None]:
        """Return the manifests that are there, each in its place."""
        ...

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Say whether a blob is there."""
        ...


@dataclass(slots=True)
class Closure:
    """What belongs to an image, each part once: its own manifest first, then what that names."""

    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    platforms: list[Platform] = field(default_factory=list)
    left_out: list[Platform] = field(default_factory=list)

    @property
    def root(self) -> Manifest:
        """The image's own manifest or index."""
        return next(iter(self.manifests.values()))

    def add(self, other: Closure) -> None:
        """Take in what belongs to one of its manifests."""
        self.manifests |= other.manifests
        self.blobs |= other.blobs
        self.platforms += other.platforms
        self.left_out += other.left_out


async def close_over(holdings: Holdings, root: Manifest, wanted: Sequence[Platform] = ()) -> Closure:
    """Gather what is there of an image: of every platform, or of those ``wanted``. An image of one kind is as it is.

    Raises:
        Incomplete: it is not all there, or of an index no platform is, or one that is wanted is not.
    """
    platforms = _told(root)
    wanted = wanted if root.manifests else ()
    for one in wanted:
        if len(platforms) == len(root.manifests) and not any(one.includes(offered) for offered in platforms):
            raise Incomplete(f"it is not for {one}{_but_for(platforms)}")
    closure = await _close(holdings, root, wanted, depth=0)
    for one in wanted:
        if not any(one.includes(found) for found in closure.platforms):
            raise Incomplete(f"{one} is not all there")
    return closure


async def _close(holdings: Holdings, manifest: Manifest, wanted: Sequence[Platform], *, depth: int) -> Closure:
    missing = [blob for blob in manifest.blobs if not await holdings.has_blob(blob)]
    if missing:
        raise Incomplete(f"{len(missing)} of its {len(manifest.blobs)} blobs are missing, first {missing[0].digest}")
    closure = Closure(manifests={manifest.digest: manifest}, blobs={blob.digest: blob for blob in manifest.blobs})
    if not manifest.manifests:
        return closure
    platforms = read_platforms(manifest.body)
    listed = {child.digest: child for child in manifest.manifests}
    children = [child for child in listed.values() if _is_wanted(platforms.get(child.digest), wanted)]
    found = await holdings.find_manifests(children) if depth + 1 < _DEEPEST else [None] * len(children)
    for child, one in zip(children, found, strict=True):
        if child.digest not in closure.manifests:
            await _add_child(holdings, closure, one, platforms.get(child.digest), wanted, depth=depth + 1)
    if len(closure.manifests) == 1:
        sought = wanted or [one for one in platforms.values() if not one.is_unknown]
        raise Incomplete(f"{', '.join(map(str, sought)) or 'what it lists'} is not all there")
    return closure


async def _add_child(
    holdings: Holdings,
    closure: Closure,
    manifest: Manifest | None,
    platform: Platform | None,
    wanted: Sequence[Platform],
    *,
    depth: int,
) -> None:
    is_there = manifest is not None
    if manifest is not None:
        try:
            closure.add(await _close(holdings, manifest, wanted, depth=depth))
        except Incomplete:
            is_there = False
    if platform is not None and not platform.is_unknown:
        (closure.platforms if is_there else closure.left_out).append(platform)


def _is_wanted(platform: Platform | None, wanted: Sequence[Platform]) -> bool:
    """Tell whether to look into a manifest; into all of whose platform nothing is said."""
    return not wanted or platform is None or any(one.includes(platform) for one in wanted)


def _told(manifest: Manifest) -> Sequence[Platform]:
    """Return what the manifests of an index are said to be for."""
    return list(read_platforms(manifest.body).values()) if manifest.manifests else ()


def _but_for(platforms: Sequence[Platform]) -> str:
    known = [str(one) for one in platforms if not one.is_unknown]
    return f", but for {', '.join(known)}" if known else ""
