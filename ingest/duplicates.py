"""Images of different files that show the same pixels: told apart from files of the same bytes.

A file of bytes that are in the collection is no second image (ingest/importing.py). One of other bytes and
the same pixels is: its labels and its patient may be others. It is imported, and shown to curators as a pair.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ingest.models import DuplicatePair, Image, Likeness
from ingest.storing import lock_bytes


def pixel_hash(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 of a frame's size and its grey pixels (rows, columns) as they are shown."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def pair_same_pixels(images: Iterable[Image]) -> None:
    """Pair each with the oldest image of another file that has its pixels; within a transaction.

    With the oldest alone: a hundred black pictures are a hundred pairs, not five thousand.
    """
    hashed = sorted((image.pixel_hash, image.pk, image.sha256) for image in images if image.pixel_hash)
    for digest, pk, sha256 in hashed:
        lock_bytes(digest)  # another worker may be importing the same pixels just now
        others = Image.objects.filter(pixel_hash=digest).exclude(sha256=sha256).order_by("pk")
        if oldest := others.values_list("pk", flat=True).first():
            pair(oldest, pk, Likeness.PIXELS)


def pair(one: int, other: int, likeness: Likeness, **decided: object) -> bool:
    """Remember the two images as a pair, unless they are one already; whether they were not."""
    first, second = sorted((one, other))
    _pair, is_new = DuplicatePair.objects.get_or_create(
        first_id=first, second_id=second, defaults={"likeness": likeness, **decided}
    )
    return is_new
