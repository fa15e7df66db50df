"""Platforms: for which kind of machine each manifest of an index is.

Spec: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md#image-index-property-descriptions
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mirror.errors import DigestInvalid, PlatformInvalid, quote
from mirror.oci.digest import Digest
from mirror.oci.documents import load_object

_WRITTEN: Final = re.compile(r"([a-z0-9]+)/([a-z0-9_]+)(?:/([a-z0-9.]+))?")
_ALIASES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armv7l": "arm",
    "i386": "386",
}
_DEFAULT_VARIANTS: Final = {"arm64": "v8", "amd64": "v1"}
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, an architecture and, where it matters, its variant."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``linux/arm64`` or ``linux/arm/v7``.

        Raises:
            PlatformInvalid: it is written otherwise.
        """
        match = _WRITTEN.fullmatch(text.lower())
        if match is None:
            raise PlatformInvalid(f"{quote(text)} is not a platform; write one as linux/amd64 or linux/arm/v7")
        os, architecture, variant = match.groups()
        return cls(os, _ALIASES.get(architecture, architecture), variant)

    @property
    def is_unknown(self) -> bool:
        """Whether it is for no machine, as BuildKit says of attestations."""
        return self.os == _UNKNOWN

    def includes(self, offered: Platform) -> bool:
        """Tell whether what is offered is what is meant by this; every variant is, where none is named."""
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return False
        usual = _DEFAULT_VARIANTS.get(self.architecture)
        return self.variant is None or self.variant == (offered.variant or usual)

    def __str__(self) -> str:
        """Write ``linux/arm/v7``."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def read_platforms(body: bytes) -> Mapping[Digest, Platform]:
    """Return for which platform each manifest of an index is; those that are said to be for none are left out.

    Raises:
        ManifestInvalid: the body is not JSON.
    """
    entries = load_object(body).get("manifests")
    found: dict[Digest, Platform] = {}
    for entry in entries if isinstance(entries, list) else ():
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if isinstance(platform, dict) and (made := _read(platform)) is not None:
            try:
                found.setdefault(Digest.parse(str(entry.get("digest"))), made)
            except DigestInvalid:
                continue
    return found


def _read(platform: Mapping[str, object]) -> Platform | None:
    os, architecture, variant = (platform.get(name) for name in ("os", "architecture", "variant"))
    if not isinstance(os, str) or not isinstance(architecture, str) or not os or not architecture:
        return None
    return Platform(os, architecture, variant if isinstance(variant, str) and variant else None)
