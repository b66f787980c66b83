"""The paper's tables and figures, filled by `ml.comparing`, as files: CSV, JSON, PNG, SVG and one page."""

import base64
import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.template.loader import render_to_string
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image as Picture

from ml.comparing import METHODS, Task
from ml.evaluation_report import with_interval

Rows = dict[str, list[dict[str, Any]]]  # of ml.comparing.compare
LAYERS = ("conv 5", "FC1", "FC2", "FC3")
PROPOSED = {"proposed": "the paper's recipe", "default": "our default recipe"}
SHOWN_ORGANS = {9: "chest", 10: "kidney"}  # figures; the paper's queries were a chest and a renal image
THUMBNAIL = 96  # pixels
RIGHT, WRONG = "#2b7a3d", "#c2241b"

# What the paper prints, measured on its own collection; None where it has no figure.
PAPER = {
    "proposed": {"ap": 0.9976, "ar": 0.9977, "f1": 0.9976, "predicted": 0.69, "all": 0.5327},
    "alexnet": {"f1": 0.9663, "all": 0.5126},
    "resnet18": {"f1": 0.9478, "all": 0.5103},
    "overfeat": {"f1": 0.8876, "all": 0.4884},
    "multi-instance": {"ap": 0.9843, "ar": 0.9728, "f1": 0.9785},
    "LBP + SVM": {"f1": 0.7674, "all": 0.4784},
    "LBP + neural network": {"f1": 0.6812},
    "LBP + decision tree": {"f1": 0.7971},
    "LBP + AdaBoost": {"f1": 0.6103},
    "HoG + SVM": {"f1": 0.9944, "all": 0.4725},
    "HoG + neural network": {"f1": 0.7532},
    "HoG + decision tree": {"f1": 0.9194},
    "HoG + AdaBoost": {"f1": 0.6512},
    "LBP + SVM + autoencoder": {"predicted": 0.86},
    "autoregressive + binary-tree SVM": {"predicted": 0.57},
}


@dataclass(frozen=True)
class Value:
    """A figure with its 95 % interval, and what the paper prints."""

    value: float | None
    interval: list[float] | None = None
    paper: float | None = None

    @property
    def text(self) -> str:
        return with_interval(self.value, self.interval)

    @property
    def paper_text(self) -> str:
        return "-" if self.paper is None else f"{self.paper:.4g}"


@dataclass(frozen=True)
class ReportTable:
    number: str  # as in the paper, or "" for one of ours
    title: str
    measures: list[str]
    rows: list[tuple[str, list[Value]]]
    note: str = ""

    @property
    def columns(self) -> list[tuple[str, bool]]:
        """Each measure, and whether the paper has figures of it."""
        return [
            (measure, any(values[n].paper is not None for _, values in self.rows))
            for n, measure in enumerate(self.measures)
        ]

    @property
    def header(self) -> list[str]:
        return ["method", *(part for m, paper in self.columns for part in ([m, "paper"] if paper else [m]))]

    @property
    def lines(self) -> list[list[str]]:
        """The rows as text, under `header`."""
        return [
            [
                name,
                *(
                    text
                    for (_, paper), v in zip(self.columns, values, strict=True)
                    for text in ([v.text, v.paper_text] if paper else [v.text])
                ),
            ]
            for name, values in self.rows
        ]

    @property
    def slug(self) -> str:
        return f"table-{self.number}" if self.number else self.title.lower().replace(" ", "-")


def report_tables(found: Rows) -> list[ReportTable]:
    """Tables 2 to 5; a method without a result has no row."""
    by_name = {row["name"]: row for rows in found.values() for row in rows}
    classifiers = [*by_name]
    beside = ("autoencoder", "autoregressive")
    once = [name for name in by_name if "+" not in name or name.endswith("+ SVM")]

    def table(number: str, title: str, measures: list[str], names: list[str]) -> ReportTable:
        rows = [(title_of(name), [value_of(by_name[name], m) for m in measures]) for name in names]
        return ReportTable(number, title, measures, rows)

    ours = [name for name in ("proposed", "default", "untrained") if name in by_name]
    patches = [name for name in ("multi-instance",) if name in by_name]
    rivals = [row["name"] for key in beside for row in found.get(key, [])]
    retrieval = [name for name in once if name not in {*rivals, *patches}]
    return [
        table(
            "2",
            "Classification: macro average precision, recall and F1",
            ["AP", "AR", "F1"],
            [*ours, *patches],
        ),
        table(
            "3",
            "Retrieval beside earlier systems: mAP",
            ["mAP, predicted organ", "mAP, whole collection"],
            [*ours, *rivals],
        ),
        table(
            "4",
            "Classification: macro F1",
            ["F1", "accuracy"],
            [name for name in classifiers if name not in {*patches, *rivals}],
        ),
        table(
            "5",
            "Retrieval: mAP, and precision of the first",
            ["mAP, predicted organ", "mAP, whole collection", "mAP@10", "P@1"],
            retrieval,
        ),
    ]


Read = Callable[[dict[str, Any]], tuple[float | None, list[float] | None]]
MEASURES: dict[str, tuple[str, Read]] = {  # by heading: its key in PAPER, and how it is read from a row
    "AP": ("ap", lambda row: macro(row, "precision")),
    "AR": ("ar", lambda row: macro(row, "recall")),
    "F1": ("f1", lambda row: macro(row, "f1")),
    "accuracy": (
        "",
        lambda row: (
            row["classification"]["organ_accuracy"],
            row["classification"]["intervals"]["organ_accuracy"],
        ),
    ),
    "mAP, predicted organ": ("predicted", lambda row: retrieved(row, "predicted", "map")),
    "mAP, whole collection": ("all", lambda row: retrieved(row, "all", "map")),
    "mAP@10": ("", lambda row: retrieved(row, "all", "map_at_10")),
    "P@1": ("", lambda row: retrieved(row, "all", "precision_at_1")),
}


def macro(row: dict[str, Any], name: str) -> tuple[float, list[float] | None]:
    seen = row["classification"]
    return seen["organ_macro"][name], seen["intervals"]["organ_macro"][name]


def retrieved(
    row: dict[str, Any], scope: str, measure: str, layer: str | None = None
) -> tuple[float | None, list[float] | None]:
    """By the layer that ranks, or the one named; with the organ as relevance."""
    by_layer = row["retrieval"]
    figures = by_layer[layer or next(iter(by_layer))][scope]["organ"]
    return figures[measure], figures["intervals"][measure]


def value_of(row: dict[str, Any], measure: str) -> Value:
    key, read = MEASURES[measure]
    return Value(*read(row), paper=PAPER.get(row["name"], {}).get(key))


def title_of(name: str) -> str:
    return METHODS[name].name if name in METHODS else name[0].upper() + name[1:]


def layer_table(found: Rows) -> ReportTable:
    """What each layer of the proposed network ranks by."""
    rows = [
        (
            f"{title_of(row['name'])}: {layer}",
            [
                Value(*retrieved(row, scope, measure, layer))
                for scope, measure in (("predicted", "map"), ("all", "map"), ("all", "precision_at_1"))
            ],
        )
        for key in (*PROPOSED, "untrained")
        for row in found.get(key, [])
        for layer in LAYERS
        if layer in row["retrieval"]
    ]
    return ReportTable("", "Layers", ["mAP, predicted organ", "mAP, whole collection", "P@1"], rows)


def fold_table(folds: dict[str, list[dict[str, float]]]) -> ReportTable:
    """Of the training images, as the paper did."""
    rows = []
    for key, scores in folds.items():
        values = []
        for measure in ("accuracy", "precision", "recall", "f1"):
            of_folds = [score[measure] for score in scores]
            values.append(Value(sum(of_folds) / len(of_folds), [min(of_folds), max(of_folds)]))
        rows.append((f"{title_of(key)}, {len(scores)} folds", values))
    note = "Mean over the folds of the training images; in brackets the lowest and the highest of them."
    return ReportTable("", "Cross validation", ["accuracy", "AP", "AR", "F1"], rows, note)


@dataclass(frozen=True)
class Share:
    """Of an organ's images, how many were seen as another."""

    share: float  # 0..1
    is_right: bool

    @property
    def percent(self) -> str:
        return f"{100 * self.share:.1f}".removesuffix(".0") if self.share else ""

    @property
    def shade(self) -> int:
        return round(60 * self.share)


def confusions(found: Rows) -> list[tuple[str, list[str], list[tuple[str, list[Share]]]]]:
    """Table 1, for each recipe: the organs, and a row for each that has images."""
    shown = []
    for key in PROPOSED:
        for row in found.get(key, []):
            seen = row["classification"]
            rows = [
                (
                    organ,
                    [
                        Share(images / sum(counts), seen_as == organ)
                        for seen_as, images in zip(seen["organs"], counts, strict=True)
                    ],
                )
                for organ, counts in zip(seen["organs"], seen["confusion"], strict=True)
                if sum(counts)
            ]
            shown.append((title_of(key), seen["organs"], rows))
    return shown


def costs(found: Rows) -> list[dict[str, str]]:
    """What each method took; those that share their features share their time."""
    return [
        {
            "title": title_of(row["name"]),
            "parameters": f"{row['parameters']:,}" if row["parameters"] else "-",
            "seconds": f"{row['seconds']:,.0f}",
            "accuracy": f"{row['history'][-1]['train_accuracy']:.1%}" if row["history"] else "-",
        }
        for rows in found.values()
        for row in rows
    ]


# ------------------------------------------------------------------ figures


def precision_recall(found: Rows, scope: str) -> Figure | None:
    """Figure 7 (predicted organ) or 8 (whole collection): a panel for each recipe, a line for each layer."""
    panels = [(PROPOSED[key], row) for key in PROPOSED for row in found.get(key, [])]
    if not panels:
        return None
    figure = Figure(figsize=(5 * len(panels), 4))
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, row) in zip(axes[0], panels, strict=True):
        for layer in LAYERS:
            if scope == "predicted" and layer == "conv 5":
                continue  # the paper shows it without the class alone
            figures = row["retrieval"][layer][scope]["organ"]
            label = f"{layer} (mAP {figures['map']:.3f})"
            axis.plot(figures["curve"]["recall"], figures["curve"]["precision"], label=label)
        axis.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axis.legend(loc="lower left")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def learning_curves(found: Rows) -> Figure | None:
    """How every network came to know the images it learns from; by accuracy, since losses differ."""
    learnt = [row for rows in found.values() for row in rows if row["history"]]
    if not learnt:
        return None
    figure = Figure(figsize=(10, 4))
    axis = figure.subplots()
    for row in learnt:
        epochs = [epoch["epoch"] for epoch in row["history"]]
        shares = [epoch["train_accuracy"] for epoch in row["history"]]
        axis.plot(epochs, shares, marker=".", label=title_of(row["name"]))
    axis.set(xlabel="epoch", ylabel="organs right while learning", ylim=(0, 1.02))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def retrieved_rows(found: Rows, organ: str, task: Task) -> Figure | None:
    """Figures 9 and 10: a query and what it finds, wrong organs in red."""
    rows = [
        (f"{PROPOSED[key]}\n{words}", row["examples"][organ], scope)
        for key in PROPOSED
        for row in found.get(key, [])
        for scope, words in (("all", "whole collection"), ("predicted", "predicted organ"))
        if organ in row["examples"]
    ]
    if not rows:
        return None
    columns = 1 + max(len(example[scope]) for _, example, scope in rows)
    figure = Figure(figsize=(1.3 * columns, 1.65 * len(rows)))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    names = task.learning.organ_names
    for line, (title, example, scope) in zip(axes, rows, strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.axis("off")
        show(line[0], task.queries.renditions[example["query"]], f"query: {organ}\nseen: {example['seen']}")
        line[0].text(-0.15, 0.5, title, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
        for axis, position in zip(line[1:], example[scope], strict=False):
            found_organ = names[task.learning.organ[position]]
            colour = RIGHT if found_organ == organ else WRONG
            show(axis, task.learning.renditions[position], found_organ, colour)
    figure.tight_layout(rect=(0.1, 0, 1, 1))
    return figure


def show(axis: Any, rendition: Any, title: str, colour: str = "black") -> None:
    small = Picture.fromarray(rendition).resize((THUMBNAIL, THUMBNAIL))
    axis.axis("on")
    axis.imshow(small, cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize=7, color=colour, pad=3)
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=2)


# ------------------------------------------------------------------ files


def write_report(
    found: Rows, folds: dict[str, list[dict[str, float]]], task: Task, facts: dict[str, str], out: Path
) -> list[ReportTable]:
    """Write everything to `out`, index.html among it; gives back the tables for the console.

    Rows are in the order of `METHODS`, in whatever order they were measured.
    """
    found = {key: found[key] for key in METHODS if key in found}
    tables = [table for table in report_tables(found) if table.rows]
    more = [table for table in (layer_table(found), fold_table(folds)) if table.rows]
    for table in (*tables, *more):
        write_csv(table, out / f"{table.slug}.csv")
    for number, (_title, organs, rows) in enumerate(confusions(found)):
        write_confusion(organs, rows, out / f"table-1{'ab'[number]}.csv")
    (out / "results.json").write_text(
        json.dumps({"facts": facts, "methods": found, "folds": folds}, indent=1)
    )
    drawn = {
        "Figure 7": ("Precision over recall with the predicted organ", precision_recall(found, "predicted")),
        "Figure 8": ("Precision over recall in the whole collection", precision_recall(found, "all")),
        **{
            f"Figure {number}": (
                f"What a query of the organ {organ} finds",
                retrieved_rows(found, organ, task),
            )
            for number, organ in SHOWN_ORGANS.items()
        },
        "Learning": ("Training accuracy by epoch", learning_curves(found)),
    }
    figures = [
        (f"{name}: {title}", saved(figure, out / name.lower().replace(" ", "-")))
        for name, (title, figure) in drawn.items()
        if figure
    ]
    page = render_to_string(
        "ml/comparison.html",
        {
            "facts": facts,
            "tables": tables,
            "more": more,
            "confusions": confusions(found),
            "figures": figures,
            "methods": [METHODS[key] for key in found],
            "costs": costs(found),
        },
    )
    (out / "index.html").write_text(page)
    return [*tables, *more]


def saved(figure: Figure, path: Path) -> str:
    """PNG and SVG beside each other; gives back the PNG as a data URI."""
    figure.savefig(path.with_suffix(".svg"))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    path.with_suffix(".png").write_bytes(buffer.getvalue())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_csv(table: ReportTable, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "method",
                *(f"{m}{part}" for m in table.measures for part in ("", " low", " high", " in the paper")),
            ]
        )
        for name, values in table.rows:
            cells = [[v.value, *(v.interval or (None, None)), v.paper] for v in values]
            writer.writerow([name, *(cell for part in cells for cell in part)])


def write_confusion(organs: list[str], rows: list[tuple[str, list[Share]]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["organ", *organs])
        writer.writerows([organ, *(f"{cell.share:.4f}" for cell in cells)] for organ, cells in rows)
