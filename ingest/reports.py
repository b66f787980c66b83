"""What became of a batch: in numbers, and file by file."""

import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Any

from django.db.models import Count
from django.http import StreamingHttpResponse

from ingest.models import FileState, Image, UploadBatch
from ingest.trying import NAME_WAITS

REPORT_COLUMNS = [
    "path", "state", "reason_code", "reason", "size_bytes", "sha256",
    "organ", "modality", "split", "duplicate_of_image", "finished_at",
]  # fmt: skip
DANGEROUS = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets run what begins so


def batch_report(batch: UploadBatch, seconds: float) -> dict[str, Any]:
    """Counts per outcome, and each rejected file with its reason; ready for JSON."""
    counts = {state: batch.files.filter(state=state).count() for state in FileState.values}
    rejected = batch.files.filter(state=FileState.REJECTED)
    by_code = rejected.order_by().values_list("reason_code").annotate(files=Count("id")).order_by("-files")
    files = sum(counts.values())
    trial = {"would_be_imported": counts[FileState.CHECKED], "names_to_decide": names_to_decide(batch)}
    return {
        "dataset": batch.dataset.name,
        "batch": batch.pk,
        "files": files,
        "imported": counts[FileState.IMPORTED],
        "images": Image.objects.filter(uploaded_file__batch=batch).count(),
        "duplicates": counts[FileState.DUPLICATE],
        "left_out": counts[FileState.LEFT_OUT],
        "quarantined": counts[FileState.QUARANTINED],
        **(trial if batch.is_dry_run else {}),
        "rejected": dict(by_code),
        "rejections": [
            {"path": row.path, "code": row.reason_code, "reason": row.reason}
            for row in rejected.order_by("id")
        ],
        "seconds": round(seconds, 2),
        "files_per_second": round(files / max(seconds, 1e-6), 1),
    }


def names_to_decide(batch: UploadBatch) -> list[str]:
    """Names of organs that the files of a dry run came with, and that would wait for a decision."""
    waiting = batch.files.filter(state=FileState.CHECKED, reason_code=NAME_WAITS).order_by("organ_name")
    return list(waiting.values_list("organ_name", flat=True).distinct())


def csv_report(batch: UploadBatch) -> StreamingHttpResponse:
    """The whole ledger as a CSV file, sent while it is read."""
    return StreamingHttpResponse(
        report_lines(batch),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="import-{batch.pk}.csv"'},
    )


def report_lines(batch: UploadBatch) -> Iterator[str]:
    """The ledger as CSV, a line at a time, however long it is."""
    yield csv_line(REPORT_COLUMNS)
    for row in batch.files.order_by("id").iterator():
        finished = row.finished_at.isoformat() if row.finished_at else ""
        labels = [row.organ_name, row.modality_code, row.split]
        outcome = [row.path, row.state, row.reason_code, row.reason, row.size_bytes, row.sha256]
        yield csv_line([*outcome, *labels, row.duplicate_of_id or "", finished])


def csv_line(values: Sequence[object]) -> str:
    """One line; an apostrophe keeps a spreadsheet from running what a file's name says."""
    line = StringIO()
    cells = [f"'{value}" if str(value).startswith(DANGEROUS) else value for value in values]
    csv.writer(line).writerow(cells)
    return line.getvalue()
