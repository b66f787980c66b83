"""The one protocol that measures every way to describe an image; docs/method.md states it. NumPy alone.

Every query searches the collection by an exact Euclidean scan. Images of the query's own group (patient,
volume) do not count, equal distances are in the collection's order. A query without anything relevant is left
out of the means. Intervals are bootstrapped over groups of queries.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.metrics import (
    average_precision,
    bootstrap_intervals,
    confusion_matrix,
    interpolated_precision,
    macro_scores,
    precision_at,
    recall_at,
    weighted_mean,
    weighted_mean_over_classes,
)

RECALL_LEVELS = np.linspace(0, 1, 101)
MACRO = ("map", "precision_at_1")  # also given as the mean of the organs' means
CELLS = 2**23  # of query x collection that are held at a time: 64 MiB for each array of numbers
BLOCK = 4096  # images of the collection that are widened to float64 at a time

Progress = Callable[[int, int], None]  # queries done, queries in all
PerQuery = dict[str, dict[str, dict[str, NDArray[np.float64]]]]  # by scope, relevance and measure


@dataclass(frozen=True)
class Described:
    """Row n of each array is about image n. Labels are positions in lists that all images share."""

    features: NDArray[np.float32]  # (N, D), what ranks: FC1 or a handcrafted feature
    organ: NDArray[np.intp]  # (N,)
    modality: NDArray[np.intp]  # (N,), -1 where not known
    group: NDArray[np.str_]  # (N,), patient or volume; a name of its own where an image belongs to none
    seen_organ: NDArray[np.intp]  # (N,), the predicted organ, -1 where the method predicts none
    seen_modality: NDArray[np.intp]  # (N,), likewise

    def __len__(self) -> int:
        return len(self.organ)


def measure_retrieval(
    queries: Described,
    collection: Described,
    *,
    intervals: int = 1000,
    seed: int = 0,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Figures by scope ("all"; "predicted" where organs are) and relevance ("organ", "organ_and_modality").

    Means over the queries, their macro means, precision over recall, and for every mean the 95 % interval of
    `intervals` bootstrap samples. None stands for what is not defined. All of it can be written as JSON.
    """
    found = per_query(queries, collection, on_progress)
    return {
        scope: {
            relevance: summarise(values, queries, intervals, seed) for relevance, values in relevances.items()
        }
        for scope, relevances in found.items()
    }


def summarise(
    values: dict[str, NDArray[np.float64]], queries: Described, intervals: int, seed: int
) -> dict[str, Any]:
    measured = ~np.isnan(values["map"])
    names = [name for name in values if name != "curve"]
    all_names = [*names, *(f"{name}_macro" for name in MACRO)]
    figures: dict[str, Any] = {"queries": int(measured.sum())}
    if not measured.any():
        nothing = dict.fromkeys(all_names)
        return figures | nothing | {"intervals": nothing, "curve_11": None, "curve": None}
    table = np.stack([values[name][measured] for name in names], 1)
    macro_table = np.stack([values[name][measured] for name in MACRO], 1)
    organ = queries.organ[measured]

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        macro = weighted_mean_over_classes(macro_table, weights, organ)
        return np.concatenate([weighted_mean(table, weights), macro])

    means = statistic(np.ones(len(table)))
    bounds = bootstrap_intervals(statistic, queries.group[measured], intervals, seed)
    curve = values["curve"][measured].mean(0)
    return {
        **figures,
        **dict(zip(all_names, means.tolist(), strict=True)),
        "intervals": {name: as_interval(pair) for name, pair in zip(all_names, bounds, strict=True)},
        "curve_11": curve[::10].tolist(),
        "curve": {"recall": RECALL_LEVELS.round(2).tolist(), "precision": curve.tolist()},
    }


def as_interval(pair: NDArray[np.float64]) -> list[float] | None:
    return None if np.isnan(pair).any() else [float(bound) for bound in pair]


def measure_classification(
    queries: Described, organs: list[str], *, intervals: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Accuracy, macro precision, recall and F1, confusion; with 95 % intervals over groups of queries.

    Raises ValueError when an image has no predicted organ: a method that names none is not a classifier.
    """
    if (queries.seen_organ < 0).any():
        raise ValueError("An organ has to be predicted for every query.")
    pairs = queries.organ * len(organs) + queries.seen_organ

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        confusion = np.bincount(pairs, weights, len(organs) ** 2).reshape(len(organs), len(organs))
        return np.array([np.trace(confusion) / confusion.sum(), *macro_scores(confusion).values()])

    confusion = confusion_matrix(queries.organ, queries.seen_organ, len(organs))
    macro = macro_scores(confusion)
    bounds = [as_interval(pair) for pair in bootstrap_intervals(statistic, queries.group, intervals, seed)]
    known = (queries.modality >= 0) & (queries.seen_modality >= 0)
    right = (queries.modality == queries.seen_modality)[known].astype(float)
    modality, low, high = mean_with_interval(right, queries.group[known], intervals, seed)
    return {
        "organ_accuracy": float(np.trace(confusion) / confusion.sum()),
        "modality_accuracy": modality,
        "organ_macro": macro,
        "organs": organs,
        "confusion": confusion.tolist(),
        "intervals": {
            "organ_accuracy": bounds[0],
            "modality_accuracy": None if low is None else [low, high],
            "organ_macro": dict(zip(macro, bounds[1:], strict=True)),
        },
    }


def paired_difference(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    groups: NDArray[np.str_],
    *,
    intervals: int = 1000,
    seed: int = 0,
) -> tuple[float | None, float | None, float | None]:
    """The mean of a - b over the queries that both measure, and its 95 % interval.

    a, b (Q,): one measure of the same queries by two methods, as `per_query` gives it. The bounds are None
    with fewer than two groups, the difference too without any query.
    """
    both = ~np.isnan(a - b)
    return mean_with_interval((a - b)[both], groups[both], intervals, seed)


def mean_with_interval(
    values: NDArray[np.float64], groups: NDArray[np.str_], intervals: int, seed: int
) -> tuple[float | None, float | None, float | None]:
    if not len(values):
        return None, None, None
    (bounds,) = bootstrap_intervals(
        lambda weights: weighted_mean(values[:, None], weights), groups, intervals, seed
    )
    low, high = as_interval(bounds) or (None, None)
    return float(values.mean()), low, high


def per_query(
    queries: Described, collection: Described, on_progress: Progress = lambda done, total: None
) -> PerQuery:
    """Every measure of every query, by scope and relevance: float64 (Q,), NaN where nothing is relevant.

    "curve" is (Q, 101): interpolated precision at the recalls 0, 0.01 .. 1. Raises ValueError when there
    are no queries, nothing to search among, or features that are not finite.
    """
    if not len(queries) or not len(collection):
        raise ValueError("There has to be a query and an image to search among.")
    if not np.isfinite(queries.features).all() or not np.isfinite(collection.features).all():
        raise ValueError("Every feature has to be a finite number.")
    scopes = ("all", "predicted") if (queries.seen_organ >= 0).any() else ("all",)
    _, numbers = np.unique(np.concatenate([queries.group, collection.group]), return_inverse=True)
    query_group, group = np.split(numbers, [len(queries)])
    chunks = []
    for part, order in nearest_first(queries.features, collection.features):
        own = group[order] == query_group[part, None]
        chunks.append(measure_part(queries, part, collection, order, own, scopes))
        on_progress(part.stop, len(queries))
    return {
        scope: {
            relevance: {
                name: np.concatenate([chunk[scope][relevance][name] for chunk in chunks]) for name in measures
            }
            for relevance, measures in relevances.items()
        }
        for scope, relevances in chunks[0].items()
    }


def measure_part(
    queries: Described,
    part: slice,
    collection: Described,
    order: NDArray[np.intp],
    own: NDArray[np.bool_],
    scopes: tuple[str, ...],
) -> PerQuery:
    """The measures of the queries `part`; `order` and `own` (Q, N) are by rank."""
    organ = collection.organ[order]
    same_organ = (organ == queries.organ[part, None]) & ~own
    modality = queries.modality[part, None]
    same_both = same_organ & (modality >= 0) & (collection.modality[order] == modality)
    found: PerQuery = {}
    for scope in scopes:
        kept = ~own if scope == "all" else (organ == queries.seen_organ[part, None]) & ~own
        rank = np.cumsum(kept, 1)
        found[scope] = {
            name: measure_ranking(close_gaps(relevant & kept, rank), relevant.sum(1))
            for name, relevant in (("organ", same_organ), ("organ_and_modality", same_both))
        }
    return found


def measure_ranking(
    ranking: NDArray[np.bool_], relevant: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    undefined = np.where(relevant > 0, 0.0, np.nan)
    return {
        "map": average_precision(ranking, relevant),
        "map_at_10": average_precision(ranking, relevant, 10),
        **{f"precision_at_{k}": precision_at(ranking, k) + undefined for k in (1, 5, 10)},
        **{f"recall_at_{k}": recall_at(ranking, relevant, k) for k in (10, 100, 1000)},
        "curve": interpolated_precision(ranking, relevant, RECALL_LEVELS),
    }


def nearest_first(
    queries: NDArray[np.float32], collection: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.intp]]]:
    """Parts of the queries with intp (Q, N): positions in the collection, nearest first."""
    step = min(max(1, CELLS // max(1, len(collection))), 256)
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        squared = squared_distances(queries[part].astype(np.float64), collection)
        yield part, np.argsort(squared, axis=1, kind="stable")


def squared_distances(queries: NDArray[np.float64], collection: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 (Q, N), each row in a unit of its own: as whole numbers of what is above the rounding error.

    A matrix product does not round alike in all its corners, so equal images would not be equally far.
    """
    squared = np.empty((len(queries), len(collection)))
    for start in range(0, len(collection), BLOCK):
        part = slice(start, start + BLOCK)
        block = collection[part].astype(np.float64)
        squared[:, part] = (block**2).sum(1) - 2 * queries @ block.T
    own = (queries**2).sum(1, keepdims=True)
    squared += own
    unit = 1e-11 * (own + squared.max(1, keepdims=True))
    np.divide(squared, unit, out=squared, where=unit > 0)
    np.rint(squared, out=squared)
    return squared


def close_gaps(relevant: NDArray[np.bool_], rank: NDArray[np.intp]) -> NDArray[np.bool_]:
    """bool (Q, N): the relevance by `rank` (from 1), where images that do not count have none."""
    ranking = np.zeros_like(relevant)
    query, place = np.nonzero(relevant)
    ranking[query, rank[query, place] - 1] = True
    return ranking
