"""The collection in the admin: labels are edited here, the ledger is read."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ingest.models import Dataset, Image, Modality, OrganClass, UploadBatch, UploadedFile


class WithImageCount(admin.ModelAdmin[Any]):
    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).annotate(image_count=Count("images"))  # type: ignore[no-any-return]

    @admin.display(description="images", ordering="image_count")
    def image_count(self, row: Any) -> int:
        return int(row.image_count)


@admin.register(Dataset)
class DatasetAdmin(WithImageCount):
    list_display = ["name", "image_count", "created_by", "created_at"]
    list_select_related = ["created_by"]
    search_fields = ["name"]
    fields = ["name", "description"]

    def save_model(self, request: HttpRequest, obj: Dataset, form: Any, change: bool) -> None:
        if not change:
            obj.created_by = request.user  # type: ignore[assignment]
        super().save_model(request, obj, form, change)


@admin.register(OrganClass)
class OrganClassAdmin(WithImageCount):
    list_display = ["name", "image_count"]
    search_fields = ["name"]


@admin.register(Modality)
class ModalityAdmin(WithImageCount):
    list_display = ["code", "name", "image_count"]
    search_fields = ["code", "name"]


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """Rows that importing writes and people read."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def thumbnail(image: Image, height: int) -> SafeString:
    url = reverse("search:image_preview", args=[image.pk])
    return format_html('<img src="{}" height="{}" loading="lazy" alt="image {}">', url, height, image.pk)


LABELS = ["organ", "modality", "split"]
READ_ONLY = [
    "dataset", "source_path", "created_at", "file_format", "transfer_syntax_uid", "rows", "columns",
    "bits_stored", "frame_number", "number_of_frames", "body_part_examined", "tags", "assumptions",
    "patient_key", "study_key", "series_key", "group_key", "sha256",
]  # fmt: skip


@admin.register(Image)
class ImageAdmin(admin.ModelAdmin[Image]):
    """Only the labels can be changed: the rest is what the file says."""

    list_display = ["id", "small_preview", "organ", "modality", "split", "dataset", "source_path"]
    list_filter = ["organ", "modality", "split", "dataset", "file_format"]
    list_select_related = ["organ", "modality", "dataset"]
    list_editable = LABELS
    list_per_page = 50
    search_fields = ["=id"]
    search_help_text = "The image's number."
    show_full_result_count = False
    fields = ["large_preview", *LABELS, *READ_ONLY]
    readonly_fields = ["large_preview", *READ_ONLY]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @admin.display(description="preview")
    def small_preview(self, image: Image) -> SafeString:
        return thumbnail(image, 64)

    @admin.display(description="preview")
    def large_preview(self, image: Image) -> SafeString:
        return thumbnail(image, 384)


@admin.register(UploadBatch)
class UploadBatchAdmin(ReadOnlyAdmin):
    list_display = ["id", "dataset", "label_source", "created_by", "created_at", "outcome"]
    list_filter = ["label_source", "dataset"]
    list_select_related = ["dataset", "created_by"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[UploadBatch]:
        return UploadBatch.objects.with_counts()

    @admin.display(description="files")
    def outcome(self, batch: Any) -> str:
        rejected = f", {batch.files_rejected} rejected" if batch.files_rejected else ""
        return f"{batch.files_imported + batch.files_duplicate} of {batch.files_total} in{rejected}"


@admin.register(UploadedFile)
class UploadedFileAdmin(ReadOnlyAdmin):
    list_display = ["id", "batch", "path", "state", "reason", "finished_at"]
    list_filter = ["state", "reason_code"]
    list_select_related = ["batch__dataset"]
    search_fields = ["path", "=batch__id"]
    show_full_result_count = False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
