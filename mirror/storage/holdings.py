"""What repositories hold, as people see it: listed by image, and taken out when somebody asks.

Used by the ledger, in its thread. What is taken out here is purged, not evicted: last uses do not count, and what
another repository holds, or anything else needs, stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag
from mirror.ports import ListedImage, Removal

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from mirror.oci.reference import Reference

_NEXT: Final = """
SELECT min(repository) FROM (
    SELECT min(repository) AS repository FROM holders WHERE repository > :after
    UNION ALL SELECT min(repository) FROM tags WHERE repository > :after)
"""
_MANIFESTS: Final = """
SELECT objects.digest, objects.used FROM holders JOIN objects ON objects.digest = holders.content
WHERE holders.repository = ? AND holders.content > ? AND objects.kind = 'manifest' ORDER BY holders.content LIMIT ?
"""
_TREE: Final = """
WITH RECURSIVE tree (digest) AS ({roots}
    UNION SELECT needs.content FROM needs JOIN tree ON needs.manifest = tree.digest)
SELECT coalesce(sum(size), 0) FROM objects WHERE digest IN (SELECT digest FROM tree)
"""
_IMAGE_SIZE: Final = _TREE.format(roots="SELECT ?")
_REPOSITORY_SIZE: Final = _TREE.format(roots="SELECT content FROM holders WHERE repository = ?")
_NEEDED_HERE: Final = """
SELECT 1 FROM needs JOIN holders ON holders.content = needs.manifest
WHERE needs.content = ? AND holders.repository = ? LIMIT 1
"""
# of what the manifest names, what this repository holds through no other manifest of its own and by itself
LINKS_LOST: Final = """
SELECT content FROM needs WHERE manifest = :manifest
    AND NOT EXISTS (SELECT 1 FROM holders WHERE content = needs.content AND repository = :repository)
    AND NOT EXISTS (SELECT 1 FROM needs AS other JOIN holders ON holders.content = other.manifest
        WHERE other.content = needs.content AND other.manifest != :manifest AND holders.repository = :repository)
"""
_REMOVABLE: Final = "SELECT 1 FROM objects WHERE digest = ? AND (kind = 'manifest' OR needed = 0)"
_UNNEEDED: Final = "SELECT 1 FROM objects WHERE digest = ? AND needed = 0 AND pinned = 0"
_LOOSE: Final = """
SELECT digest, used FROM objects WHERE needed = 0 AND pinned = 0 AND kind = 'blob' AND used >= ? AND used <= ?
ORDER BY used LIMIT ?
"""


class Holdings:
    """Looks into and changes the ledger's tables; ``take_one`` takes one object out and returns what it needed."""

    def __init__(self, database: sqlite3.Connection, take_one: Callable[[str, Removal], Sequence[str]]) -> None:
        """Work on the ledger's own connection."""
        self._database = database
        self._take_one = take_one

    # ---- looking

    def next_repository(self, after: str) -> str | None:
        """Return the name of the first repository behind a name, in lexical order."""
        name = self._one(_NEXT, {"after": after})
        return None if name is None else str(name)

    def repository_size(self, repository: Repository) -> int:
        """Return the bytes that are stored of a repository; what several of its images share counts once."""
        return int(self._one(_REPOSITORY_SIZE, (str(repository),)))

    def images(self, repository: Repository, after: str, limit: int) -> tuple[Sequence[ListedImage], str | None]:
        """Return the images among the next ``limit`` manifests of a repository, and where to go on; None at the end.

        An image is what has a tag or a pin, or what no index of this repository names.
        """
        rows = self._database.execute(_MANIFESTS, (str(repository), after, limit)).fetchall()
        images = [one for digest, used in rows if (one := self._image(repository, digest, used)) is not None]
        return images, rows[-1][0] if len(rows) == limit else None

    def _image(self, repository: Repository, digest: str, used: float) -> ListedImage | None:
        name = str(repository)
        tags = self._column("SELECT tag FROM tags WHERE repository = ? AND digest = ? ORDER BY tag", (name, digest))
        pins = self._column(
            "SELECT reference FROM pins WHERE repository = ? AND digest = ? ORDER BY reference", (name, digest)
        )
        if not tags and not pins and self._one(_NEEDED_HERE, (digest, name)):
            return None
        return ListedImage(
            digest=Digest.parse(digest),
            tags=tags,
            pins=pins,
            size_bytes=int(self._one(_IMAGE_SIZE, (digest,))),
            used_at=used,
        )

    def find(self, repository: Repository, reference: Reference) -> Digest | None:
        """Return the manifest that a repository has by a tag or digest."""
        sql = (
            "SELECT tags.digest FROM tags JOIN objects USING (digest) WHERE repository = ? AND tag = ?"
            if isinstance(reference, Tag)
            else "SELECT digest FROM holders JOIN objects ON digest = content WHERE repository = ? AND content = ?"
            " AND kind = 'manifest'"
        )
        digest = self._one(sql, (str(repository), str(reference)))
        return None if digest is None else Digest.parse(digest)

    def pins(self, repository: Repository) -> Sequence[tuple[str, Digest]]:
        """Return what is pinned of a repository: references as they were pinned, and where they point now."""
        rows = self._database.execute("SELECT reference, digest FROM pins WHERE repository = ?", (str(repository),))
        return [(reference, Digest.parse(digest)) for reference, digest in rows]

    # ---- taking out

    def remove(self, repository: Repository, reference: Reference | None, *, limit: int) -> Removal:
        """Take an image out of a repository, or without a reference the next ``limit`` objects of it, and its tags."""
        removal, name = Removal(), str(repository)
        match reference:
            case Tag():
                self._remove_tag(name, str(reference), removal)
            case Digest():
                if self.find(repository, reference) is not None:
                    self._release(name, str(reference), removal)
            case None:
                self._remove_some(name, limit, removal)
        return removal

    def _remove_tag(self, name: str, tag: str, removal: Removal) -> None:
        digest = self._one("SELECT digest FROM tags WHERE repository = ? AND tag = ?", (name, tag))
        if digest is None:
            return
        self._database.execute("DELETE FROM tags WHERE repository = ? AND tag = ?", (name, tag))
        removal.tags.append((Repository.parse(name), Tag(tag)))
        if not self._is_wanted(name, digest):
            self._release(name, digest, removal)

    def _remove_some(self, name: str, limit: int, removal: Removal) -> None:
        for digest in self._column("SELECT content FROM holders WHERE repository = ? LIMIT ?", (name, limit)):
            self._release(name, digest, removal)
        tags = self._column("SELECT tag FROM tags WHERE repository = ? LIMIT ?", (name, limit))
        removal.tags += ((Repository.parse(name), Tag(tag)) for tag in tags)
        self._database.executemany("DELETE FROM tags WHERE repository = ? AND tag = ?", ((name, tag) for tag in tags))

    def _release(self, name: str, root: str, removal: Removal) -> None:
        """Let a repository hold an object no more, nor what it held for the object's sake; take out what is left."""
        waiting = [root]
        while waiting:
            digest = waiting.pop()
            contents = self._column("SELECT content FROM needs WHERE manifest = ?", (digest,))
            self._unlink(name, digest, removal)
            if self._is_anyones(digest):
                waiting += (one for one in contents if self._is_held_in_vain(name, one))
            elif self._one(_REMOVABLE, (digest,)):
                self._take_one(digest, removal)
                waiting += (one for one in contents if self._is_left(name, one))

    def _unlink(self, name: str, digest: str, removal: Removal) -> None:
        """Take away what is known of an object in one repository."""
        repository = Repository.parse(name)
        lost = self._column(LINKS_LOST, {"manifest": digest, "repository": name})
        removal.links += ((repository, Digest.parse(one)) for one in (*lost, digest))
        tags = self._column("SELECT tag FROM tags WHERE repository = ? AND digest = ?", (name, digest))
        removal.tags += ((repository, Tag(tag)) for tag in tags)
        self._database.execute("DELETE FROM tags WHERE repository = ? AND digest = ?", (name, digest))
        self._database.execute("DELETE FROM holders WHERE repository = ? AND content = ?", (name, digest))

    def _is_wanted(self, name: str, digest: str) -> bool:
        """Say whether a repository has an object for another reason: a tag, a pin, an index."""
        return any(
            self._one(sql, (digest, name))
            for sql in (
                "SELECT 1 FROM tags WHERE digest = ? AND repository = ?",
                "SELECT 1 FROM pins WHERE digest = ? AND repository = ?",
                _NEEDED_HERE,
            )
        )

    def _is_anyones(self, digest: str) -> bool:
        """Say whether another repository holds an object, or has it pinned."""
        return any(
            self._one(sql, (digest,))
            for sql in ("SELECT 1 FROM holders WHERE content = ?", "SELECT 1 FROM pins WHERE digest = ?")
        )

    def _is_held_in_vain(self, name: str, digest: str) -> bool:
        held = self._one("SELECT 1 FROM holders WHERE content = ? AND repository = ?", (digest, name))
        return bool(held) and not self._is_wanted(name, digest)

    def _is_left(self, name: str, digest: str) -> bool:
        """Say whether what an object needed, which is gone, is needed by nothing else and has no tag in here."""
        return bool(self._one(_UNNEEDED, (digest,))) and not self._is_wanted(name, digest)

    def collect(self, since: float, until: float, *, limit: int) -> tuple[Removal, float | None]:
        """Take out blobs that no manifest needs and that were last used in a time; say where to go on, None: done."""
        removal = Removal()
        rows = self._database.execute(_LOOSE, (since, until, limit)).fetchall()
        for digest, _ in rows:
            self._take_one(digest, removal)
        return removal, rows[-1][1] if len(rows) == limit else None

    def _one(self, sql: str, values: Any) -> Any:  # noqa: ANN401 - sqlite3's
        """Return the first column of the first row, None where there is none."""
        row = self._database.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def _column(self, sql: str, values: Any) -> list[str]:  # noqa: ANN401 - sqlite3's
        return [row[0] for row in self._database.execute(sql, values).fetchall()]
