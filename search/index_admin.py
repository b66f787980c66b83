"""Indexes of model versions and how well they find, in the admin: look, rebuild, drop what serves no more."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse

from ingest.bell import ring
from ml.admin import ReadOnlyAdmin, percent
from ml.models import VersionStatus
from search import ivfflat
from search.models import RecallProbe, VersionIndex
from search.probe_charts import charts_of

PROBES_DRAWN = 24 * 30


@admin.register(VersionIndex)
class VersionIndexAdmin(ReadOnlyAdmin):
    list_display = ["model_version", "status", "images", "has_ivfflat", "size", "fitted_at", "error"]
    list_select_related = ["model_version"]
    fields = [
        "model_version", "status", "images", "has_ivfflat", "size", "fitted_at", "near_duplicate",
        "blend_weight", "error",
    ]  # fmt: skip
    readonly_fields = ["status", "size"]
    actions = ["rebuild_selected", "drop_selected"]

    @admin.display(description="the version is")
    def status(self, index: VersionIndex) -> str:
        return str(index.model_version.get_status_display())

    @admin.display(description="IVFFlat index on disk")
    def size(self, index: VersionIndex) -> str:
        size = ivfflat.size_bytes(index.model_version_id)
        return "none" if size is None else filesizeformat(size)

    def has_look_after_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("search.change_versionindex")

    @admin.action(description="Build the IVFFlat index anew", permissions=["look_after"])
    def rebuild_selected(self, request: HttpRequest, queryset: QuerySet[VersionIndex]) -> None:
        for index in queryset.select_related("model_version"):
            if index.has_ivfflat:
                ring("search.rebuild_index", index.model_version_id)
                messages.success(
                    request,
                    f"The index of {index.model_version} is built anew in the background, and then measured. "
                    "Searches go on with the earlier one; the status page tells how far it is.",
                )
            else:
                messages.info(
                    request, f"{index.model_version} has no IVFFlat index: so few images are scanned instead."
                )

    @admin.action(
        description="Drop the version's embeddings, which serve no search any more",
        permissions=["look_after"],
    )
    def drop_selected(self, request: HttpRequest, queryset: QuerySet[VersionIndex]) -> HttpResponse | None:
        indexes = list(queryset.select_related("model_version"))
        kept = [
            index.model_version
            for index in indexes
            if index.model_version.status in (VersionStatus.ACTIVE, VersionStatus.PREPARING)
        ]
        for version in kept:
            messages.error(request, f"{version} is in service, or about to be, and keeps its embeddings.")
        if kept:
            return None
        if "confirmed" not in request.POST:
            return self.ask_to_confirm(request, indexes)
        for index in indexes:
            ring("search.drop_embeddings", index.model_version_id)
            messages.success(
                request,
                f"The embeddings of {index.model_version} are being dropped in the background. "
                "The version stays, and can be put into service again.",
            )
        return None

    def ask_to_confirm(self, request: HttpRequest, indexes: list[VersionIndex]) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Drop embeddings?",
            "indexes": indexes,
        }
        return TemplateResponse(request, "admin/search/versionindex/drop.html", context)


@admin.register(RecallProbe)
class RecallProbeAdmin(ReadOnlyAdmin):
    list_display = [
        "created_at",
        "model_version",
        "recall",
        "median",
        "p95",
        "exact_median",
        "queries",
        "images",
    ]
    list_display_links = None
    list_filter = ["model_version"]
    list_select_related = ["model_version"]
    list_per_page = 50
    date_hierarchy = "created_at"

    @admin.display(description="recall@20", ordering="recall_at_20")
    def recall(self, probe: RecallProbe) -> str:
        return percent(probe.recall_at_20)

    @admin.display(description="ranking, median ms", ordering="median_ms")
    def median(self, probe: RecallProbe) -> str:
        return f"{probe.median_ms:.1f}"

    @admin.display(description="95 % faster than, ms", ordering="p95_ms")
    def p95(self, probe: RecallProbe) -> str:
        return f"{probe.p95_ms:.1f}"

    @admin.display(description="exact scan, median ms", ordering="exact_median_ms")
    def exact_median(self, probe: RecallProbe) -> str:
        return f"{probe.exact_median_ms:.1f}"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list below the curves of the newest version in it."""
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse) and response.context_data and "cl" in response.context_data:
            listed = response.context_data["cl"].queryset.order_by("-created_at")
            newest = listed.first()
            probes = listed.filter(model_version=newest.model_version_id) if newest else listed
            response.context_data |= {
                "charts": charts_of(list(probes[:PROBES_DRAWN])),
                "charted_version": newest and newest.model_version,
            }
        return response
