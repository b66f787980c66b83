"""What became of a batch, in numbers."""

from typing import Any

from django.db.models import Count

from ingest.models import FileState, Image, UploadBatch


def batch_report(batch: UploadBatch, seconds: float) -> dict[str, Any]:
    """Counts per outcome, and each rejected file with its reason; ready for JSON."""
    counts = {state: batch.files.filter(state=state).count() for state in FileState.values}
    rejected = batch.files.filter(state=FileState.REJECTED)
    by_code = rejected.order_by().values_list("reason_code").annotate(files=Count("id")).order_by("-files")
    files = sum(counts.values())
    return {
        "dataset": batch.dataset.name,
        "batch": batch.pk,
        "files": files,
        "imported": counts[FileState.IMPORTED],
        "images": Image.objects.filter(uploaded_file__batch=batch).count(),
        "duplicates": counts[FileState.DUPLICATE],
        "rejected": dict(by_code),
        "rejections": [
            {"path": row.path, "code": row.reason_code, "reason": row.reason}
            for row in rejected.order_by("id")
        ],
        "seconds": round(seconds, 2),
        "files_per_second": round(files / max(seconds, 1e-6), 1),
    }
