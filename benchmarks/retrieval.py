"""How well each way to ask finds: the three scopes, relevance feedback, regions, several images as one.

    python -m benchmarks.retrieval --checkpoint DIR --data ../shared/data

Every image of the test split asks; the training images are the collection. Relevant is what has the same
organ. The query's own group is left out, as ml/protocol.py has it; in brackets, 95 % intervals bootstrapped
over groups. The weights of what is blended and fed back are those of the product, beside others.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from ml.calibration import softmax
from ml.checkpoint import load_checkpoint
from ml.engines import engine_for
from ml.inference import see
from ml.labelled_folder import LabelledFolder, read_labelled_folder
from ml.protocol import close_gaps, mean_with_interval, measure_ranking

BLENDS = (0.01, 0.03, 0.1, 0.3, 1.0)  # of the usual squared distance between organs
FEEDBACK = ((1.0, 0.0), (1.0, 0.25), (1.0, 0.75), (1.0, 1.5))  # relevant, irrelevant
MARKED = 10  # results that a reader marks in a round
REGIONS = (0.9, 0.75, 0.5)  # sides of a part, as shares of the picture's
TOGETHER = (2, 3, 5)  # images as one query
MEASURES = ("map", "map_at_10", "precision_at_1")

Numbers = NDArray[np.float64]
Vectors = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    experiment = Experiment(options.checkpoint, read_labelled_folder(options.data))
    for table in (experiment.scopes(), experiment.feedback(), experiment.regions(), experiment.together()):
        Console(width=150).print(table)


@dataclass(frozen=True)
class Asked:
    """Row n is about query n."""

    fc1: Vectors  # (Q, 4096)
    probabilities: Vectors  # (Q, organs), calibrated
    organ: NDArray[np.intp]  # (Q,), what it is after
    group: NDArray[np.str_]  # (Q,)
    own: NDArray[np.bool_]  # (Q, N), images of the collection that are the query's own

    def __len__(self) -> int:
        return len(self.organ)

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        return np.asarray(self.probabilities.argmax(1) != self.organ)

    def part(self, rows: NDArray[np.intp]) -> "Asked":
        return Asked(
            self.fc1[rows], self.probabilities[rows], self.organ[rows], self.group[rows], self.own[rows]
        )


class Experiment:
    def __init__(self, checkpoint_folder: Path, data: LabelledFolder) -> None:
        self.checkpoint = load_checkpoint(checkpoint_folder)
        self.engine = engine_for(self.checkpoint.network, "auto")
        names = self.checkpoint.organs
        if data.organ_names != names:
            raise SystemExit("The checkpoint has learnt other organs than those of the data.")
        learnt, self.test = data.part(data.split == "train"), data.part(data.split == "test")
        self.fc1, _ = self.seen(learnt.renditions)
        self.organ, self.group = learnt.organ, learnt.group
        self.asked = self.ask(self.test.renditions)
        self.usual = self.usual_distance_between_organs()

    def seen(self, renditions: NDArray[np.uint8]) -> tuple[Vectors, Vectors]:
        """FC1 and calibrated probabilities of the organs."""
        found = see(self.engine, self.checkpoint.preprocessing, renditions)
        temperature = self.checkpoint.calibration.organ_temperature
        return found.fc1, softmax(found.organ_logits, temperature)

    def ask(self, renditions: NDArray[np.uint8]) -> Asked:
        own = self.test.group[:, None] == self.group
        return Asked(*self.seen(renditions), self.test.organ, self.test.group, own)

    def usual_distance_between_organs(self) -> float:
        """The median, as search/fitting.py has it, of a sample."""
        sample = np.random.default_rng(0).permutation(len(self.fc1))[:1_000]
        distances = distances_squared(self.fc1[sample[:300]], self.fc1[sample])
        other = self.organ[sample[:300], None] != self.organ[sample]
        return float(np.median(np.sqrt(distances[other])))

    def scopes(self) -> Table:
        from search.fitting import BLEND

        table = new_table("Scopes", "scope", "queries")
        asked, wrong = self.asked, np.flatnonzero(self.asked.is_wrong)
        distances = distances_squared(asked.fc1, self.fc1)
        for name, (scores, kept) in {
            "whole collection": (distances, ~asked.own),
            "predicted organ, as in the paper": (distances, self.of_likely(asked, 1.0) & ~asked.own),
            "predicted organ, or the two likely": (distances, self.of_likely(asked, 0.7) & ~asked.own),
            **{
                f"blended, {share:g}{' (the default)' if share == BLEND else ''}": (
                    distances + self.penalties(asked, share),
                    ~asked.own,
                )
                for share in BLENDS
            },
        }.items():
            found = self.measure(scores, kept, asked)
            add_row(table, [name, f"all {len(asked)}"], found, asked.group)
            part = {measure: values[wrong] for measure, values in found.items()}
            add_row(table, ["", f"{len(wrong)} misclassified"], part, asked.group[wrong])
        return table

    def of_likely(self, asked: Asked, sure: float) -> NDArray[np.bool_]:
        """bool (Q, N): of the likeliest organ, of the two likeliest where the first is less than `sure`."""
        order = np.argsort(-asked.probabilities, axis=1)
        unsure = np.take_along_axis(asked.probabilities, order[:, :1], 1) < (sure if sure < 1 else 0)
        first, second = order[:, :1] == self.organ, order[:, 1:2] == self.organ
        return np.asarray(first | (unsure & second))

    def penalties(self, asked: Asked, share: float) -> Numbers:
        """float64 (Q, N), as search/retrieval.py has them."""
        from search.retrieval import LEAST_PROBABILITY

        least = np.maximum(asked.probabilities.astype(np.float64), LEAST_PROBABILITY)
        return np.asarray(-share * self.usual**2 * np.log(least)[:, self.organ])

    def measure(self, scores: Numbers, kept: NDArray[np.bool_], asked: Asked) -> dict[str, Numbers]:
        """Each measure of each query. What `kept` leaves out is not found; the query's own never counts."""
        order = np.argsort(scores, axis=1, kind="stable")
        relevant = (self.organ == asked.organ[:, None]) & ~asked.own
        ranking = np.take_along_axis(relevant & kept, order, 1)
        rank = np.cumsum(np.take_along_axis(kept, order, 1), 1, dtype=np.intp)
        found = measure_ranking(close_gaps(ranking, rank), relevant.sum(1))
        return {name: found[name] for name in MEASURES}

    def blended(self, asked: Asked) -> Numbers:
        """float64 (Q, N): the scores by which the product's default ranks."""
        from search.fitting import BLEND

        return distances_squared(asked.fc1, self.fc1) + self.penalties(asked, BLEND)

    def feedback(self) -> Table:
        from search import refining

        default = (refining.RELEVANT, refining.IRRELEVANT)
        table = new_table(
            f"Relevance feedback: in each round a reader marks the first {MARKED} results not yet marked; "
            "blended scope; the marked ones cannot be found again",
            "weights",
            "round",
            "queries",
        )
        group, wrong = self.asked.group, self.asked.is_wrong
        for weights in FEEDBACK:
            label = f"{weights[0]:g} / {weights[1]:g}{' (the default)' if weights == default else ''}"
            for number, (before, after) in enumerate(self.rounds(weights), 1):
                for name, found in (("the query alone", before), ("refined", after)):
                    add_row(table, [label, f"{number}, {name}", f"all {len(wrong)}"], found, group)
                    part = {measure: values[wrong] for measure, values in found.items()}
                    add_row(table, ["", "", f"{wrong.sum()} misclassified"], part, group[wrong])
        return table

    def rounds(
        self, weights: tuple[float, float], number: int = 2
    ) -> Iterator[tuple[dict[str, Numbers], dict[str, Numbers]]]:
        """By round: measures of the query alone, and refined, both without what has been marked by then."""
        from search import refining

        asked, names = self.asked, self.checkpoint.organs
        marked = np.zeros_like(asked.own)
        alone, scores = self.blended(asked), self.blended(asked)
        for _ in range(number):
            left = np.where(asked.own | marked, np.inf, scores)
            np.put_along_axis(marked, np.argsort(left, axis=1, kind="stable")[:, :MARKED], True, 1)
            fc1, probabilities = asked.fc1.copy(), asked.probabilities.copy()
            for row in range(len(asked)):
                places = np.flatnonzero(marked[row])
                right = self.organ[places] == asked.organ[row]
                fc1[row] = refining.refined(
                    asked.fc1[row], self.fc1[places[right]], self.fc1[places[~right]], weights
                )
                after = refining.probabilities_after(
                    dict(zip(names, asked.probabilities[row].tolist(), strict=True)),
                    [names[organ] for organ in self.organ[places[right]]],
                    [names[organ] for organ in self.organ[places[~right]]],
                )
                probabilities[row] = [after[name] for name in names]
            moved = Asked(fc1, probabilities, asked.organ, asked.group, asked.own | marked)
            scores = self.blended(moved)
            yield self.measure(alone, ~moved.own, moved), self.measure(scores, ~moved.own, moved)

    def regions(self) -> Table:
        table = new_table("A part of the picture as the query; blended scope", "part", "queries")
        whole = self.measure(self.blended(self.asked), ~self.asked.own, self.asked)
        add_row(table, ["whole", f"all {len(self.asked)}"], whole, self.asked.group)
        for side in REGIONS:
            for name, at in (("centre", None), ("anywhere", np.random.default_rng(0))):
                asked = self.ask(np.stack([part_of(picture, side, at) for picture in self.test.renditions]))
                found = self.measure(self.blended(asked), ~asked.own, asked)
                add_row(table, [f"{side:.0%} of each side, {name}", f"all {len(asked)}"], found, asked.group)
        return table

    def together(self) -> Table:
        from search import refining

        table = new_table("Several images of an organ and modality as one query; blended scope", "images", "")
        rng = np.random.default_rng(0)
        kind = self.test.organ * 1000 + self.test.modality
        for number in TOGETHER:
            sets = []
            for value in np.unique(kind):
                rows = rng.permutation(np.flatnonzero(kind == value))
                sets += [rows[at : at + number] for at in range(0, len(rows) - number + 1, number)]
            rows = np.stack(sets)
            single = self.asked.part(rows[:, 0])
            own = self.asked.own[rows].any(1)
            single = Asked(single.fc1, single.probabilities, single.organ, single.group, own)
            fc1 = np.stack([refining.together(self.asked.fc1[chosen]) for chosen in rows])
            probabilities = self.asked.probabilities[rows].mean(1)
            joined = Asked(fc1, probabilities, single.organ, single.group, own)
            for name, asked in (("the first of them alone", single), (f"{number} as one", joined)):
                found = self.measure(self.blended(asked), ~asked.own, asked)
                add_row(table, [name, f"{len(rows)} sets of {number}"], found, asked.group)
        return table


def distances_squared(some: Vectors, others: Vectors) -> Numbers:
    """float64 (Q, N)."""
    some64, others64 = some.astype(np.float64), others.astype(np.float64)
    squared = (some64**2).sum(1)[:, None] + (others64**2).sum(1) - 2 * some64 @ others64.T
    return np.asarray(np.maximum(squared, 0))


def part_of(rendition: NDArray[np.uint8], side: float, at: np.random.Generator | None) -> NDArray[np.uint8]:
    """uint8 (256, 256): the middle of a rendition, or where chance puts it, as a picture of its own."""
    size = len(rendition)
    length = round(side * size)
    free = size - length
    top, left = (free // 2, free // 2) if at is None else at.integers(0, free + 1, 2)
    cut = np.ascontiguousarray(rendition[top : top + length, left : left + length])
    return np.asarray(Image.fromarray(cut).resize((size, size), Image.Resampling.BILINEAR))


def new_table(title: str, *columns: str) -> Table:
    return Table(*columns, "mAP", "mAP@10", "P@1", title=title, title_justify="left")


def add_row(table: Table, names: list[str], found: dict[str, Numbers], group: NDArray[np.str_]) -> None:
    cells = []
    for measure in MEASURES:
        known = ~np.isnan(found[measure])
        mean, low, high = mean_with_interval(found[measure][known], group[known], 1000, 0)
        cells.append(
            "-" if mean is None else f"{mean:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
        )
    table.add_row(*names, *cells)


if __name__ == "__main__":
    from benchmarks.search import start_django

    start_django()
    main()
