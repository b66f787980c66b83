"""Queries and embeddings in the admin: to read, without their vectors. The rest: what is imported here."""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from search import accounts_admin, classes_admin, index_admin  # noqa: F401 - registers them
from search.models import Embedding, Query

VECTORS = ("fc1", "projection")


class WithoutVectorsAdmin(admin.ModelAdmin[Any]):
    exclude: ClassVar[tuple[str, ...]] = VECTORS
    show_full_result_count = False
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*VECTORS)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Query)
class QueryAdmin(WithoutVectorsAdmin):
    exclude = (*VECTORS, "file_name")  # its uploader's alone
    list_display = [
        "id",
        "status",
        "predicted_organ",
        "predicted_modality",
        "model_version",
        "created_by",
        "created_at",
    ]
    list_filter = ["status", "model_version"]
    list_select_related = ["model_version", "created_by"]


@admin.register(Embedding)
class EmbeddingAdmin(WithoutVectorsAdmin):
    list_display = ["image_id", "model_version", "predicted_organ", "organ_probability", "predicted_modality"]
    list_filter = ["model_version", "predicted_organ", "predicted_modality"]
    list_select_related = ["model_version", "predicted_organ", "predicted_modality"]
    search_fields = ["=image__id"]
