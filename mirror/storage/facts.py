"""Facts about what is stored, in two diskcache databases that are rebuilt from the link files, as far as need be.

    facts          tag:<repository>:<tag>          -> digest, mediaType, size, confirmed, noted
                   held:<repository>@<digest>      -> mediaType, size, manifest, private
                   tags:<repository>               -> names
                   links:<repository>              -> how far its link file has been read
                   confirmed:<repository>          -> when its private content was last confirmed
                   note:<key>                      -> what workers tell each other
    repositories   <repository>                    -> 1; apart, so that its keys in order are the catalog

What is put goes into the repository's link file (`mirror.storage.links`) first. What is looked up is as of the end of
that file: whatever a database lacks, since it is new, or yesterday's, or another process has just added it, is read
before. So nobody waits for the whole index, and nothing else has to find out what it has lost.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.storage.databases import open_facts, open_or_replace
from mirror.storage.links import LinkFiles, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mirror.oci.reference import Repository
    from mirror.storage.files import Layout
    from mirror.storage.links import Rows

_NOTED_SECONDS: Final = 3600.0  # a tag that has not moved is written into the link file no more often
_REPOSITORIES: Final = 50_000


class Facts:
    """The facts of one cache folder, shared by the workers; used from the one thread that opened it."""

    def __init__(self, layout: Layout) -> None:
        """Open the databases; one that is damaged is put aside.

        Raises:
            OSError: the folder cannot be used.
        """
        self._layout = layout
        self._links = LinkFiles(layout.links)
        self._inodes: tuple[int | None, ...] = (None, None)
        self.open()

    def open(self) -> None:
        """Open the databases; those that were open before are taken for damaged."""
        folders = (self._layout.index / "facts", self._layout.index / "repositories")
        opened = [
            open_or_replace(folder, open_facts, damaged=inode)
            for folder, inode in zip(folders, self._inodes, strict=True)
        ]
        self._facts, self._repositories = opened
        self._inodes = tuple(folder.stat().st_ino for folder in folders)
        self._ends: OrderedDict[Repository, tuple[int, int]] = OrderedDict()

    def close(self) -> None:
        """Close the databases."""
        self._facts.close()
        self._repositories.close()

    # ---- what is known

    def tag(self, repository: Repository, tag: str) -> Any:  # noqa: ANN401 - whatever the database held
        """Return what is known of a tag."""
        self.catch_up(repository)
        return self._get(f"tag:{repository}:{tag}")

    def tags(self, repository: Repository) -> Sequence[str]:
        """Return the names of its tags in lexical order."""
        self.catch_up(repository)
        return self._tags(repository)

    def held(self, repository: Repository, digest: Digest) -> Any:  # noqa: ANN401 - whatever the database held
        """Return how the repository is known to hold the content."""
        self.catch_up(repository)
        return self._get(f"held:{repository}@{digest}")

    def find(self, key: str) -> str | None:
        """Return a text by its whole key."""
        text = self._facts.get(key)
        return None if text is None else str(text)

    def names(self) -> Iterator[str]:
        """Yield what there is something of, in lexical order."""
        yield from self._repositories.iterkeys()

    # ---- changes

    def put_tag(self, repository: Repository, tag: str, row: dict[str, Any]) -> bool:
        """Remember what the upstream just said; return whether the tag has moved."""
        before = self.tag(repository, tag)
        before = before if isinstance(before, dict) else {}
        has_moved = bool(before.get("digest") != row["digest"])
        noted = _number(before.get("noted"))
        if not has_moved and 0 <= row["confirmed"] - noted < _NOTED_SECONDS:
            with self._facts.transact(retry=True):
                self._apply(repository, {f":{tag}": row | {"noted": noted}})
        else:
            self.change(repository, {f":{tag}": row | {"noted": row["confirmed"]}})
        self._repositories.set(str(repository), 1, retry=True)
        return has_moved

    def put_held(self, repository: Repository, rows: Rows) -> None:
        """Link content to a repository."""
        if rows:
            self.change(repository, rows)
        self._repositories.set(str(repository), 1, retry=True)

    def put(self, key: str, text: str) -> None:
        """Keep a text by its whole key; it is not in any link file."""
        self._facts.set(key, text, retry=True)

    def change(self, repository: Repository, rows: Rows) -> None:
        """Write rows into the link file, and apply them."""
        self.catch_up(repository)
        start, end = self._links.append(repository, rows)
        with self._facts.transact(retry=True):
            self._apply(repository, rows)
            if self._ends.get(repository, (start.inode, 0)) == (start.inode, start.offset):
                self._note_end(repository, end)  # else another worker's lines come first

    def forget(self, held: Sequence[tuple[Repository, Digest]], tags: Sequence[tuple[Repository, str]]) -> None:
        """Forget what is no longer stored; the link files need not say so, since what is not stored is not taken up."""
        with self._facts.transact(retry=True):
            for repository, digest in held:
                self._facts.delete(f"held:{repository}@{digest}")
            for repository, tag in tags:
                self._apply(repository, {f":{tag}": None})

    # ---- the link files

    def catch_up(self, repository: Repository) -> None:
        """Take up what is in the repository's link file and not yet here."""
        status = self._links.status(repository)
        if status is None or self._ends.get(repository) == (status.st_ino, status.st_size):
            return
        known = Position.parse(self._facts.get(f"links:{repository}"))
        if known is not None and known.is_end_of(status):
            self._remember_end(repository, known)
            return
        rows, end = self._links.read(repository, known)
        news = {key: row for key, row in rows.items() if self._is_news(repository, key, row)}
        with self._facts.transact(retry=True):
            self._apply(repository, news)
            if end is not None:
                self._note_end(repository, end)
        if any(row is not None for row in news.values()):  # one of which nothing is left stays out of the catalog
            self._repositories.set(str(repository), 1, retry=True)

    def list_again(self, repository: Repository) -> None:
        """Catch up, and make sure that the repository is in the catalog, unless nothing of it is left."""
        self.catch_up(repository)
        if str(repository) not in self._repositories and self._has_any(repository):
            self._repositories.set(str(repository), 1, retry=True)

    def _has_any(self, repository: Repository) -> bool:
        rows, _ = self._links.read(repository, None)
        return any(row is not None and self._is_stored(key, row) for key, row in rows.items())

    def retire(self, repository: Repository) -> None:
        """Take a repository out of the catalog."""
        self._repositories.delete(str(repository), retry=True)
        self._facts.delete(f"links:{repository}", retry=True)
        self._ends.pop(repository, None)

    def _is_news(self, repository: Repository, key: str, row: Mapping[str, Any] | None) -> bool:
        """Say whether a row of the link file counts: its content is there, and nothing newer is known."""
        if row is None:
            return True
        before = self._get(f"tag:{repository}{key}") if key.startswith(":") else None
        if isinstance(before, dict) and _number(before.get("confirmed")) > _number(row.get("confirmed")):
            return False
        return self._is_stored(key, row)

    def _is_stored(self, key: str, row: Mapping[str, Any]) -> bool:
        with contextlib.suppress(MirrorError):
            digest = Digest.parse(key[1:] if key.startswith("@") else str(row.get("digest")))
            return self._layout.blob(digest).exists()
        return False

    def _apply(self, repository: Repository, rows: Rows) -> None:
        """Change the database; within a transaction."""
        for key, row in rows.items():
            if key.startswith("@"):
                self._set(f"held:{repository}{key}", row)
            elif key.startswith(":"):
                self._set(f"tag:{repository}{key}", row)
        gone = {key[1:] for key, row in rows.items() if key.startswith(":") and row is None}
        come = {key[1:] for key, row in rows.items() if key.startswith(":") and row is not None}
        if gone or come:
            self._change_tags(repository, lambda names: names - gone | come)

    def _change_tags(self, repository: Repository, change: Callable[[set[str]], set[str]]) -> None:
        before = set(self._tags(repository))
        after = change(before)
        if after != before:
            self._facts.set(f"tags:{repository}", json.dumps(sorted(after)))

    def _tags(self, repository: Repository) -> list[str]:
        names = self._get(f"tags:{repository}")
        return [str(name) for name in names] if isinstance(names, list) else []

    def _set(self, key: str, row: Mapping[str, Any] | None) -> None:
        if row is None:
            self._facts.delete(key)
        else:
            self._facts.set(key, json.dumps(row))

    def _get(self, key: str) -> Any:  # noqa: ANN401 - whatever the database held
        with contextlib.suppress(ValueError, TypeError):
            return json.loads(self._facts.get(key))
        return None

    def _note_end(self, repository: Repository, end: Position) -> None:
        self._facts.set(f"links:{repository}", str(end))
        self._remember_end(repository, end)

    def _remember_end(self, repository: Repository, end: Position) -> None:
        self._ends[repository] = (end.inode, end.offset)
        if len(self._ends) > _REPOSITORIES:
            self._ends.popitem(last=False)


def _number(value: object) -> float:
    """Return a time from a row, 0 where somebody has made it something else."""
    return float(value) if isinstance(value, (int, float)) else 0.0
