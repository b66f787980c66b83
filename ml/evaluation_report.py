"""The figures of an evaluation in words, for the command and the admin; older evaluations have fewer."""

from dataclasses import dataclass
from typing import Any

from ml.charts import Chart, Line

SCOPES = {"all": "whole collection", "predicted": "predicted organ"}
RELEVANCES = {"organ": "same organ", "organ_and_modality": "same organ and modality"}
MEASURES = {
    "map": "mAP", "map_macro": "mAP, macro", "map_at_10": "mAP@10",
    "precision_at_1": "P@1", "precision_at_1_macro": "P@1, macro",
    "precision_at_5": "P@5", "precision_at_10": "P@10",
    "recall_at_10": "recall@10", "recall_at_100": "recall@100", "recall_at_1000": "recall@1000",
}  # fmt: skip
CURVE_SIZE = 260  # SVG units, each way


@dataclass(frozen=True)
class Table:
    header: list[str]
    rows: list[list[str]]  # the first of each names the row


@dataclass(frozen=True)
class Cell:
    images: int
    shade: int  # 0..50, a percentage: half the share of the row's images
    is_right: bool


def with_interval(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def retrieval_table(metrics: dict[str, Any]) -> Table:
    """A row for each measure, a column for each scope and relevance."""
    columns = [
        (f"{SCOPES[scope]}, {RELEVANCES[relevance]}", figures)
        for scope, relevances in metrics["retrieval"].items()
        for relevance, figures in relevances.items()
    ]
    rows = [
        [label, *(with_interval(found[name], found.get("intervals", {}).get(name)) for _, found in columns)]
        for name, label in MEASURES.items()
        if all(name in found for _, found in columns)
    ]
    return Table(["measure", *(title for title, _ in columns)], rows)


def classification_table(metrics: dict[str, Any]) -> Table:
    intervals = metrics.get("intervals", {})
    rows = [
        [label, with_interval(metrics[name], intervals.get(name))]
        for name, label in (("organ_accuracy", "organ, top-1"), ("modality_accuracy", "modality, top-1"))
    ]
    rows += [
        [f"organ, macro {name}", with_interval(value, intervals.get("organ_macro", {}).get(name))]
        for name, value in metrics["organ_macro"].items()
    ]
    if calibration := metrics.get("calibration"):
        errors = {name: calibration[name]["expected_calibration_error"] for name in ("before", "after")}
        rows.append(["organ, expected calibration error as the network gives it", f"{errors['before']:.3f}"])
        rows.append(
            [f"the same, calibrated (temperature {calibration['temperature']})", f"{errors['after']:.3f}"]
        )
    return Table(["measure", "share"], rows)


def reliability_charts(metrics: dict[str, Any]) -> list[Chart]:
    """Share of right organs over the probability given, before and after calibration."""
    calibration = metrics.get("calibration")
    if not calibration:
        return []
    lines = []
    for name, label in (("after", "calibrated"), ("before", "as the network gives it")):
        points = " ".join(
            f"{entry['confidence'] * CURVE_SIZE:.1f},{(1 - entry['accuracy']) * CURVE_SIZE:.1f}"
            for entry in calibration[name]["bins"]
            if entry["images"]
        )
        error = calibration[name]["expected_calibration_error"]
        lines.append(Line(label, points, f"error {error:.3f}"))
    title = "Share of right organs over the probability given"
    return [Chart(title, lines, "1", CURVE_SIZE, CURVE_SIZE, "probability 1", diagonal=True)]


def confusion_rows(metrics: dict[str, Any]) -> list[tuple[str, list[Cell]]]:
    """Each organ with how its images were seen, for the organs that have images."""
    return [
        (
            organ,
            [Cell(images, round(50 * images / sum(row)), seen == truth) for seen, images in enumerate(row)],
        )
        for truth, (organ, row) in enumerate(zip(metrics["organs"], metrics["confusion"], strict=True))
        if sum(row)
    ]


def precision_recall_charts(metrics: dict[str, Any]) -> list[Chart]:
    """A chart for each relevance, a line for each scope."""
    charts = []
    for relevance, title in RELEVANCES.items():
        lines = [
            Line(
                SCOPES[scope],
                curve_points(relevances[relevance]["curve"]),
                f"mAP {relevances[relevance]['map']:.3f}",
            )
            for scope, relevances in metrics["retrieval"].items()
            if relevances[relevance].get("curve")
        ]
        if lines:
            charts.append(Chart(f"Relevant: {title}", lines, "1", CURVE_SIZE, CURVE_SIZE))
    return charts


def curve_points(curve: dict[str, list[float]]) -> str:
    return " ".join(
        f"{recall * CURVE_SIZE:.1f},{(1 - precision) * CURVE_SIZE:.1f}"
        for recall, precision in zip(curve["recall"], curve["precision"], strict=True)
    )


def curve_table(metrics: dict[str, Any]) -> Table:
    """Interpolated precision at eleven recalls."""
    rows = [
        [
            f"{SCOPES[scope]}, {RELEVANCES[relevance]}",
            *(f"{precision:.3f}" for precision in found["curve_11"]),
        ]
        for scope, relevances in metrics["retrieval"].items()
        for relevance, found in relevances.items()
        if found.get("curve_11")
    ]
    return Table(["recall", *(f"{tenth / 10}" for tenth in range(11))], rows)


def report_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page of an evaluation shows."""
    return {
        "retrieval": retrieval_table(metrics),
        "classification": classification_table(metrics),
        "charts": precision_recall_charts(metrics),
        "curves": curve_table(metrics),
        "reliability": reliability_charts(metrics),
        "organs": metrics["organs"],
        "confusion": confusion_rows(metrics),
    }
