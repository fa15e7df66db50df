"""What the engine needs from the world: bytes, facts, registries, time and somebody who counts."""

from __future__ import annotations

from mirror.ports.accounts import (
    Accounts,
    Bookkeeping,
    Files,
    ListedImage,
    Record,
    Records,
    Removal,
    Shelves,
    Space,
    StoredFile,
    Totals,
)
from mirror.ports.blobs import BlobStore, Body, Bytes, Claim, Origin, Part, PartialBlob, Room, StoredBlob, Underway
from mirror.ports.clock import Clock
from mirror.ports.facts import Held, Index, Locks, Memory, Notes
from mirror.ports.observers import DamageObserver, DownloadObserver, EvictionObserver, UpstreamObserver
from mirror.ports.tracer import UNTRACED, Role, Span, Tracer
from mirror.ports.upstream import BlobStream, Sink, Upstream, UpstreamState

__all__ = [
    "UNTRACED",
    "Accounts",
    "BlobStore",
    "BlobStream",
    "Body",
    "Bookkeeping",
    "Bytes",
    "Claim",
    "Clock",
    "DamageObserver",
    "DownloadObserver",
    "EvictionObserver",
    "Files",
    "Held",
    "Index",
    "ListedImage",
    "Locks",
    "Memory",
    "Notes",
    "Origin",
    "Part",
    "PartialBlob",
    "Record",
    "Records",
    "Removal",
    "Role",
    "Room",
    "Shelves",
    "Sink",
    "Space",
    "Span",
    "StoredBlob",
    "StoredFile",
    "Totals",
    "Tracer",
    "Underway",
    "Upstream",
    "UpstreamObserver",
    "UpstreamState",
]
