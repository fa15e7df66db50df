"""The images of the soak: some hundred that share layers, far more than the cache may hold."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.images import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Blob, Image, blob, digest_of
from tests.support.process import RegistryProcess

NAME = "library/app"
IMAGES = 300
_SHARED_LAYERS = 40
_SHARED_PER_IMAGE = 3
_SHARED_BYTES = 1_500_000
_OWN_BYTES = 250_000
_CONFIG_BYTES = 2_000
_SHARE_THAT_FITS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Images, tagged ``0``, ``1`` and so on; the first are the popular ones."""

    images: Sequence[Image]

    @property
    def total_bytes(self) -> int:
        """The size of everything, shared layers counted once."""
        blobs = {part.digest: part.size_bytes for image in self.images for part in image.blobs}
        return sum(blobs.values()) + sum(len(image.manifest) for image in self.images)

    @property
    def limit_bytes(self) -> int:
        """The bound of a cache that holds a fifth of it."""
        return self.total_bytes // _SHARE_THAT_FITS

    def choose(self, random_: random.Random) -> int:
        """Return the tag of an image, a popular one more often."""
        return min(int(random_.expovariate(4 / len(self.images))), len(self.images) - 1)

    def publish(self, registry: RegistryProcess) -> None:
        """Put all of it into a registry."""
        for number, image in enumerate(self.images):
            registry.add(NAME, str(number), image)


def make_library(*, scale: float = 1.0, images: int = IMAGES) -> Library:
    """Build the images; ``scale`` changes the size of their layers."""
    choose = random.Random(4)
    shared = [blob(_scaled(_SHARED_BYTES, number, scale), 10_000 + number) for number in range(_SHARED_LAYERS)]
    own = [blob(_scaled(_OWN_BYTES, number, scale), 20_000 + number) for number in range(images)]
    return Library(images=[_image([*choose.sample(shared, _SHARED_PER_IMAGE), one], n) for n, one in enumerate(own)])


def _scaled(size_bytes: int, number: int, scale: float) -> int:
    """Return sizes from a half to one and a half times ``size_bytes``."""
    return int(size_bytes * scale * (0.5 + number % 11 / 10))


def _image(layers: Sequence[Blob], number: int) -> Image:
    config = blob(_CONFIG_BYTES, 50_000 + number, media_type=OCI_CONFIG)
    named = [layer.descriptor | {"mediaType": OCI_LAYER} for layer in layers]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor, "layers": named}
    manifest = json.dumps(document).encode()
    return Image(
        media_type=OCI_MANIFEST, digest=digest_of(manifest), manifest=manifest, config=config, layers=tuple(layers)
    )
