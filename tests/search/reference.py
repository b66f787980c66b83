"""What a search has to answer, said a second time and as simply as can be: lists, loops and NumPy.

Written from the contracts of search/options.py and search/retrieval.py, to be held against them. Nothing of
the search is imported but the names of its options.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from search.options import Collapse, Scope, SearchOptions

AGES = {"0-17": (0, 17), "18-39": (18, 39), "40-59": (40, 59), "60-79": (60, 79), "80+": (80, 999)}


@dataclass
class Row:
    """One image and its embedding. FC1 are whole numbers: sums of squares are exact in any arithmetic."""

    id: int
    image_id: int
    fc1: np.ndarray
    projection: np.ndarray
    organ: str  # the label, or what the network sees
    modality: str | None
    dataset: str
    view: str | None
    sex: str | None
    age: int | None
    words: set[str]
    imported: date
    series: str
    group: str
    sha256: str


@dataclass
class Origin:
    """A picture that a query was made from."""

    image_id: int | None = None
    group: str = ""
    sha256: str = ""


@dataclass
class Asked:
    """A query as answered."""

    fc1: np.ndarray
    probabilities: list[tuple[str, float]]  # the likeliest organ first
    origins: list[Origin]
    newest: int | None
    weight: float
    near_duplicate: float | None


@dataclass
class Found:
    row: Row
    distance: float
    more_of_series: int = 0
    nearly_same: int = 0


@dataclass
class Answer:
    total: int
    cases: list[Found] = field(default_factory=list)
    organs: dict[str, int] = field(default_factory=dict)
    modalities: dict[str, int] = field(default_factory=dict)
    searched: list[str] = field(default_factory=list)


def says(row: Row, words: str) -> bool:
    """All of the words; after a minus, none of it."""
    wanted = words.lower().split()
    return all((w[1:] not in row.words) if w.startswith("-") else (w in row.words) for w in wanted)


def is_own(row: Row, origins: list[Origin]) -> bool:
    return any(
        row.image_id == origin.image_id
        or (origin.group and row.group == origin.group)
        or (origin.sha256 and row.sha256 == origin.sha256)
        for origin in origins
    )


def passes(row: Row, asked: Asked, options: SearchOptions, rows: list[Row]) -> bool:
    """Every filter but organ and modality."""
    if asked.newest is not None and row.id > asked.newest:
        return False
    if not options.own and is_own(row, asked.origins):
        return False
    if options.series_of is not None:
        series = {r.series for r in rows if r.image_id == options.series_of} - {""}
        if row.image_id != options.series_of and row.series not in series:
            return False
    if options.age:
        low, high = AGES[options.age]
        if row.age is None or not low <= row.age <= high:
            return False
    return (
        options.dataset in ("", row.dataset)
        and options.view in ("", row.view)
        and options.sex in ("", row.sex)
        and (not options.words or says(row, options.words))
        and (options.imported_from is None or row.imported >= options.imported_from)
        and (options.imported_to is None or row.imported <= options.imported_to)
    )


def organs_of_scope(asked: Asked, options: SearchOptions) -> list[str]:
    """A chosen organ; the predicted one, or the two likeliest below 70 %; none for the whole collection."""
    if options.organ:
        return [options.organ]
    if options.scope != Scope.PREDICTED:
        return []
    sure = asked.probabilities[0][1] >= 0.7
    return [name for name, _ in asked.probabilities[: 1 if sure else 2]]


def answer(rows: list[Row], asked: Asked, options: SearchOptions) -> Answer:
    passing = [row for row in rows if passes(row, asked, options, rows)]
    searched = organs_of_scope(asked, options)
    inside = [row for row in passing if not searched or row.organ in searched]
    kept = [row for row in inside if options.modality in ("", row.modality)]
    probabilities = dict(asked.probabilities)

    def score(row: Row) -> float:
        squared = float(((row.fc1 - asked.fc1) ** 2).sum())
        if options.scope != Scope.BLENDED:
            return squared
        return squared - asked.weight * math.log(max(probabilities.get(row.organ, 0.0), 1e-4))

    ranked = sorted(kept, key=lambda row: (score(row), row.id))
    found = [Found(row, math.sqrt(float(((row.fc1 - asked.fc1) ** 2).sum()))) for row in ranked]
    of_organ = Counter(row.organ for row in passing if options.modality in ("", row.modality))
    of_modality = Counter(row.modality for row in inside if row.modality)
    cases = found if options.collapse == Collapse.NONE else collapsed(found, asked, options)
    return Answer(len(kept), cases, dict(of_organ), dict(of_modality), searched)


def collapsed(found: list[Found], asked: Asked, options: SearchOptions) -> list[Found]:
    """The first of each series or patient, and of images whose projections are nearer than the threshold."""
    of_series = Counter(one.row.series for one in found if one.row.series)
    seen: set[str] = set()
    cases: list[Found] = []
    for one in found:
        key = one.row.group if options.collapse == Collapse.PATIENT else one.row.series
        if key and key in seen:
            continue
        seen.add(key)
        apart = [math.sqrt(((case.row.projection - one.row.projection) ** 2).sum()) for case in cases]
        if asked.near_duplicate and apart and min(apart) < asked.near_duplicate:
            cases[apart.index(min(apart))].nearly_same += 1
            continue
        one.more_of_series = max(0, of_series[one.row.series] - 1)
        cases.append(one)
    return cases
