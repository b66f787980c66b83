"""What a distance means to a person: how common it is among images of the same organ, and of others."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

from search.models import VersionIndex

Word = Literal["strong", "good", "fair", "weak"]


@dataclass(frozen=True)
class Match:
    """Percentiles of a distance among those between images of different patients of the collection."""

    nearer_than_same: int  # per cent of the pairs of one organ that are farther apart
    other_as_near: float  # per cent of the pairs of two organs that are as near

    @property
    def word(self) -> Word:
        """strong: nearer than half of what belongs together, and hardly anything else comes so near."""
        if self.other_as_near <= 1:
            return "strong" if self.nearer_than_same >= 50 else "good"
        return "fair" if self.other_as_near <= 5 else "weak"


def match_of(distance: float, index: VersionIndex) -> Match | None:
    if not index.same_organ or not index.other_organ:
        return None
    return Match(
        nearer_than_same=round(100 - percentile(distance, index.same_organ)),
        other_as_near=round(percentile(distance, index.other_organ), 1),
    )


def percentile(value: float, percentiles: list[float]) -> float:
    """0 to 100: the share of a distribution below the value, from its percentiles 0 to 100."""
    above = bisect_right(percentiles, value)
    if above == 0:
        return 0.0
    if above == len(percentiles):
        return 100.0
    low, high = percentiles[above - 1], percentiles[above]
    return above - 1 + (value - low) / (high - low)
