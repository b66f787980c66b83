"""How well and how fast searches find, probe by probe, as line charts over time."""

from collections.abc import Sequence
from dataclasses import replace

from django.utils.formats import date_format
from django.utils.timezone import localtime

from ml.charts import HEIGHT, WIDTH, Chart, Line
from search.models import RecallProbe
from search.probing import LEAST_RECALL

LOWEST_EDGE = 0.9  # of the recall's chart, unless it was lower


def charts_of(probes: Sequence[RecallProbe]) -> list[Chart]:
    """Recall@20 and milliseconds. None before the second probe, when there is no line to draw yet."""
    if len(probes) < 2:
        return []
    oldest_first = sorted(probes, key=lambda probe: probe.created_at)
    times = [probe.created_at.timestamp() for probe in oldest_first]
    duration = (times[-1] - times[0]) or 1.0
    across = [(time - times[0]) / duration for time in times]
    start, end = day_of(oldest_first[0]), day_of(oldest_first[-1])
    charts = [recall_chart(oldest_first, across), time_chart(oldest_first, across)]
    return [replace(chart, start=start, across=end) for chart in charts]


def recall_chart(probes: Sequence[RecallProbe], across: Sequence[float]) -> Chart:
    recall = [probe.recall_at_20 for probe in probes]
    lowest = min([LOWEST_EDGE, *recall])
    lines = [
        Line("found", polyline(across, recall, lowest, 1), f"{recall[-1]:.1%}"),
        Line("warning below", polyline([0, 1], [LEAST_RECALL] * 2, lowest, 1), f"{LEAST_RECALL:.0%}"),
    ]
    return Chart("Recall@20", lines, "100%", bottom=f"{lowest:.0%}")


def time_chart(probes: Sequence[RecallProbe], across: Sequence[float]) -> Chart:
    median, p95 = [probe.median_ms for probe in probes], [probe.p95_ms for probe in probes]
    highest = max([1.0, *p95])
    lines = [
        Line("median", polyline(across, median, 0, highest), f"{median[-1]:.1f}"),
        Line("95 % are faster than", polyline(across, p95, 0, highest), f"{p95[-1]:.1f}"),
    ]
    return Chart("Milliseconds of a ranking", lines, f"{highest:.0f}")


def polyline(across: Sequence[float], values: Sequence[float], lowest: float, highest: float) -> str:
    """Points of an SVG polyline; `across` is 0 to 1."""
    height = [(value - lowest) / (highest - lowest) for value in values]
    return " ".join(f"{x * WIDTH:.1f},{HEIGHT - y * HEIGHT:.1f}" for x, y in zip(across, height, strict=True))


def day_of(probe: RecallProbe) -> str:
    return date_format(localtime(probe.created_at), "j M, H:i")
