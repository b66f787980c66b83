"""Line charts, drawn as SVG points on the server: those of a training's epochs, and what others draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 320, 120  # of the plot, in SVG units


@dataclass(frozen=True)
class Line:
    label: str
    points: str  # of an SVG polyline
    last: str  # the newest value, in words


@dataclass(frozen=True)
class Chart:
    title: str
    lines: list[Line]
    top: str  # the value at the upper edge
    width: int = WIDTH
    height: int = HEIGHT
    across: str = "recall 1"  # the right end of the horizontal axis
    diagonal: bool = False  # draws where both axes are equal
    bottom: str = "0"  # the value at the lower edge
    start: str = "0"  # the left end of the horizontal axis


def charts_of(history: Sequence[dict[str, Any]]) -> list[Chart]:
    """Loss and accuracy per epoch; none before the second epoch, when there is no line to draw yet."""
    if len(history) < 2:
        return []
    return [
        draw("Loss", history, {"train_loss": "training", "val_loss": "validation"}, "{:.2f}"),
        draw(
            "Accuracy",
            history,
            {"train_accuracy": "training", "val_accuracy": "validation"},
            "{:.1%}",
            top=1.0,
        ),
    ]


def draw(
    title: str, history: Sequence[dict[str, Any]], keys: dict[str, str], text: str, top: float | None = None
) -> Chart:
    values = {key: [epoch.get(key) for epoch in history] for key in keys}
    known = [value for column in values.values() for value in column if value is not None]
    highest = top or max(known, default=0.0) or 1.0
    lines = []
    for key, label in keys.items():
        present = [(index, value) for index, value in enumerate(values[key]) if value is not None]
        if present:
            points = " ".join(
                f"{index / (len(history) - 1) * WIDTH:.1f},{HEIGHT - value / highest * HEIGHT:.1f}"
                for index, value in present
            )
            lines.append(Line(label, points, text.format(present[-1][1])))
    return Chart(title, lines, text.format(highest))
