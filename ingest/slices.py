"""Which slices of a volume become images: the collection is of 2D pictures, as the paper's.

A volume is a file of many frames, or a series of files of one slice. Of a series each file is judged by
itself: any worker may read it, and the order in which files come does not matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.image_file import MAX_BYTES, Frame, LeftOut, RejectedFile

ALL, EVERY_NTH, INFORMATIVE = "all", "every_nth", "informative"
CANDIDATES = 3  # frames of each part of a volume that are compared
REDUCED_SIZE = 32  # pixels; noise of single pixels says nothing
GREY_LEVELS = 32
NEARLY_EMPTY = 0.25  # bits


@dataclass(frozen=True)
class SliceRule:
    """How the slices of a volume are chosen."""

    choice: str = INFORMATIVE
    step: int = 10  # of every n-th
    most: int = 8  # informative frames of one file


INFORMATIVE_SLICES = SliceRule()


def information(grey: NDArray[np.uint8]) -> float:
    """Entropy of the grey levels, in bits, 0 to 5: low for air, also where a window enhances its noise."""
    reduced = Image.fromarray(grey).resize((REDUCED_SIZE, REDUCED_SIZE), Image.Resampling.BOX)
    counts = np.bincount(np.asarray(reduced).ravel() // (256 // GREY_LEVELS), minlength=GREY_LEVELS)
    shares = counts[counts > 0] / REDUCED_SIZE**2
    return float(-(shares * np.log2(shares)).sum())


def is_nth(number: int, step: int) -> bool:
    """Numbers count from 1; the first is always one."""
    return (number - 1) % step == 0


def parts_of(
    order: Sequence[int],
    rule: SliceRule,
    frame: int | None = None,
    middle_frame_only: bool = False,
    frame_pixels: int = 1,
) -> list[list[int]]:
    """Indexes of frames from 0, in parts of which one frame each is taken; the first of a part is preferred.

    `order` is that of the frames in space. Frame number `frame` alone, or the middle one, or by the rule.
    No more frames are taken than 1 GB of grey pictures: beyond that they are thinned out evenly.
    """
    if frame is not None:
        if not 1 <= frame <= len(order):
            raise RejectedFile("no_such_frame", f"The image has no frame {frame}: it has {len(order)}.")
        return [[frame - 1]]
    if middle_frame_only:
        return [[order[len(order) // 2]]]
    if rule.choice == EVERY_NTH:
        order = order[:: rule.step]
    most = rule.most if rule.choice == INFORMATIVE else max(MAX_BYTES // frame_pixels, 1)
    if len(order) <= most:
        return [[index] for index in order]
    candidates = CANDIDATES if rule.choice == INFORMATIVE else 1
    bounds = [number * len(order) // most for number in range(most + 1)]
    return [spread(order[low:high], candidates) for low, high in pairwise(bounds)]


def spread(part: Sequence[int], candidates: int) -> list[int]:
    """Some of a part evenly spread, the middle one first."""
    places = [(2 * number + 1) / (2 * candidates) for number in range(candidates)]
    places.sort(key=lambda place: abs(place - 0.5))
    return list(dict.fromkeys(part[int(place * len(part))] for place in places))


def take_frames(
    parts: Sequence[Sequence[int]], show: Callable[[int], Frame | None], rule: SliceRule
) -> tuple[Frame, ...]:
    """The most informative frame of each part, in the order of their numbers.

    `show` gives None for a frame that cannot be decoded. Where informative ones are wanted, nearly empty ones
    are left out if there are others.
    """
    is_choice = rule.choice == INFORMATIVE and sum(map(len, parts)) > 1
    taken = []
    for part in parts:
        shown = [frame for frame in map(show, part) if frame]
        if shown:
            scores = [information(frame.pixels) if is_choice else 0 for frame in shown]
            best = max(range(len(shown)), key=scores.__getitem__)
            taken.append((scores[best], shown[best]))
    threshold = min(NEARLY_EMPTY, max((score for score, _ in taken), default=0))
    frames = [frame for score, frame in taken if score >= threshold]
    return tuple(sorted(frames, key=lambda frame: frame.frame_number))


def require_number(instance_number: int, rule: SliceRule) -> None:
    """Raises LeftOut for a slice of a series that is not the n-th; one without a number (0) is taken."""
    if rule.choice == EVERY_NTH and instance_number > 0 and not is_nth(instance_number, rule.step):
        raise LeftOut(
            "not_nth_slice",
            f"A slice between those taken: one of every {rule.step}, by instance number.",
        )


def require_information(grey: NDArray[np.uint8], rule: SliceRule) -> None:
    """Raises LeftOut for a slice of a series that shows almost nothing."""
    if rule.choice == INFORMATIVE and information(grey) < NEARLY_EMPTY:
        raise LeftOut(
            "empty_slice",
            "A slice that shows almost nothing, such as air.",
        )
