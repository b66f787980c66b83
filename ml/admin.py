"""Training and model versions in the admin: start, follow, put into service, bring an earlier one back."""

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.views.decorators.http import require_GET, require_POST

from ml.charts import charts_of
from ml.evaluation_report import report_of
from ml.forms import TrainingRunForm
from ml.models import Comparison, Evaluation, ModelVersion, TrainingRun, VersionStatus

PUT_INTO_SERVICE = "ml.activate_modelversion"


@admin.register(TrainingRun)
class TrainingRunAdmin(admin.ModelAdmin[TrainingRun]):
    form = TrainingRunForm
    list_display = ["__str__", "status", "progress_percent", "created_by", "created_at", "finished_at"]
    list_filter = ["status", "recipe"]
    list_select_related = ["created_by"]
    date_hierarchy = "created_at"
    filter_horizontal = ["chosen_versions"]
    actions = ["cancel_selected"]

    @admin.display(description="progress")
    def progress_percent(self, run: TrainingRun) -> str:
        return f"{run.fraction_done:.0%}"

    @admin.display(description="what was in the data sets")
    def versions(self, run: TrainingRun) -> str:
        listed = "; ".join(f"{each} ({each.images:,} images)" for each in run.dataset_versions.all())
        gone = (
            f" {run.deleted_images:,} of the images had been deleted by then." if run.deleted_images else ""
        )
        return f"{listed}.{gone}" if listed else "-"

    def get_fields(self, request: HttpRequest, obj: TrainingRun | None = None) -> Any:
        asked = list(TrainingRunForm.Meta.fields)
        return (
            asked
            if obj is None
            else [*asked, "versions", "created_by", "created_at", "started_at", "finished_at"]
        )

    def has_change_permission(self, request: HttpRequest, obj: TrainingRun | None = None) -> bool:
        return False

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("ml.change_trainingrun")

    def save_model(self, request: HttpRequest, obj: TrainingRun, form: ModelForm[Any], change: bool) -> None:
        obj.created_by = cast(User, request.user)
        super().save_model(request, obj, form, change)
        obj.hand_over()  # rings on commit, when the data sets are stored too

    def response_add(
        self, request: HttpRequest, obj: TrainingRun, post_url_continue: str | None = None
    ) -> HttpResponse:
        messages.success(request, "The training is queued; this page follows it.")
        return redirect("admin:ml_trainingrun_change", obj.pk)

    @admin.action(description="Cancel selected training runs", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[TrainingRun]) -> None:
        cancelled = sum(run.cancel() for run in queryset)
        messages.success(request, f"{cancelled} of {len(queryset)} training runs cancelled.")

    def get_urls(self) -> list[URLPattern]:
        progress = self.admin_site.admin_view(require_GET(self.progress_view))
        cancel = self.admin_site.admin_view(require_POST(self.cancel_view))
        return [
            path("<int:pk>/progress/", progress, name="ml_trainingrun_progress"),
            path("<int:pk>/cancel/", cancel, name="ml_trainingrun_cancel"),
            *super().get_urls(),
        ]

    def progress_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The part of the change page that changes while the network learns."""
        run = get_object_or_404(TrainingRun.objects.select_related("model_version"), pk=pk)
        if not self.has_view_permission(request, run):
            raise PermissionDenied
        return TemplateResponse(
            request, "admin/ml/trainingrun/progress.html", self.progress_context(request, run)
        )

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        if not self.has_cancel_permission(request):
            raise PermissionDenied
        if get_object_or_404(TrainingRun, pk=pk).cancel():
            messages.success(request, "The training is cancelled.")
        else:
            messages.warning(request, "The training had already ended.")
        return redirect("admin:ml_trainingrun_change", pk)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        run = self.get_object(request, object_id)
        context = self.progress_context(request, run) if run else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **context})

    def progress_context(self, request: HttpRequest, run: TrainingRun) -> dict[str, Any]:
        return {
            "run": run,
            "percent": round(100 * run.fraction_done),
            "version": getattr(run, "model_version", None),
            "charts": charts_of(run.history),
            "may_cancel": self.has_cancel_permission(request) and not run.is_finished,
        }


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """Rows that the product writes and people read."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    list_display = [
        "__str__",
        "status",
        "recipe",
        "number_of_organs",
        "validation_accuracy",
        "created_at",
        "activated_at",
    ]
    list_filter = ["status", "recipe"]
    fields = [
        "status", "recipe", "training_run_link", "validation_accuracy", "organs", "modalities", "metrics",
        "checkpoint", "created_at", "activated_at",
    ]  # fmt: skip
    readonly_fields = ["training_run_link", "validation_accuracy"]
    actions = ["put_into_service"]

    @admin.display(description="organs")
    def number_of_organs(self, version: ModelVersion) -> int:
        return len(version.organs)

    @admin.display(description="validation accuracy")
    def validation_accuracy(self, version: ModelVersion) -> str:
        return percent(version.metrics.get("val_accuracy"))

    def has_delete_permission(self, request: HttpRequest, obj: ModelVersion | None = None) -> bool:
        in_service = obj is not None and obj.status in {VersionStatus.ACTIVE, VersionStatus.PREPARING}
        return not in_service and super().has_delete_permission(request, obj)

    def has_activate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(PUT_INTO_SERVICE)

    @admin.display(description="training run")
    def training_run_link(self, version: ModelVersion) -> str:
        if version.training_run is None:
            return "-"
        url = reverse("admin:ml_trainingrun_change", args=[version.training_run.pk])
        return format_html('<a href="{}">{}</a>', url, version.training_run)

    @admin.action(description="Put into service", permissions=["activate"])
    def put_into_service(self, request: HttpRequest, queryset: QuerySet[ModelVersion]) -> None:
        if len(queryset) == 1:
            request_activation(request, queryset[0])
        else:
            messages.error(request, "Select exactly one model version to put into service.")

    def get_urls(self) -> list[URLPattern]:
        activate = self.admin_site.admin_view(require_POST(self.activate_view))
        return [path("<int:pk>/activate/", activate, name="ml_modelversion_activate"), *super().get_urls()]

    def activate_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        if not self.has_activate_permission(request):
            raise PermissionDenied
        request_activation(request, get_object_or_404(ModelVersion, pk=pk))
        return redirect("admin:ml_modelversion_change", pk)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        version = self.get_object(request, object_id)
        waits = version is not None and version.status in {VersionStatus.TRAINED, VersionStatus.RETIRED}
        context = {"may_activate": waits and self.has_activate_permission(request)}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **context})


def request_activation(request: HttpRequest, version: ModelVersion) -> None:
    version.request_activation()
    if version.status == VersionStatus.ACTIVE:
        messages.info(request, f"{version} is in service already.")
        return
    messages.success(
        request,
        f"{version} goes into service as soon as the collection is indexed with it; "
        "until then the search goes on with the version it has.",
    )


@admin.register(Evaluation)
class EvaluationAdmin(ReadOnlyAdmin):
    list_display = [
        "__str__",
        "queries",
        "collection",
        "organ_accuracy",
        "mean_average_precision",
        "created_at",
    ]
    list_filter = ["model_version"]
    fields = ["model_version", "data_sets", "queries", "collection", "created_at"]
    readonly_fields = ["data_sets"]

    @admin.display(description="data sets")
    def data_sets(self, evaluation: Evaluation) -> str:
        return ", ".join(dataset.name for dataset in evaluation.datasets.all()) or "all"

    @admin.display(description="organ top-1 accuracy")
    def organ_accuracy(self, evaluation: Evaluation) -> str:
        return percent(evaluation.metrics.get("organ_accuracy"))

    @admin.display(description="mAP with the predicted class")
    def mean_average_precision(self, evaluation: Evaluation) -> str:
        return percent(evaluation.metrics["retrieval"]["predicted"]["organ"]["map"])

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        evaluation = self.get_object(request, object_id)
        report = report_of(evaluation.metrics) if evaluation else None
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "report": report})


@admin.register(Comparison)
class ComparisonAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "images", "epochs", "updated_at"]
    fields = ["report_link", "images", "epochs", "machine", "folder", "updated_at"]
    readonly_fields = ["report_link", "images", "epochs", "machine"]

    @admin.display(description="images")
    def images(self, comparison: Comparison) -> str:
        return str(comparison.facts.get("Images", ""))

    @admin.display(description="epochs")
    def epochs(self, comparison: Comparison) -> str:
        return str(comparison.facts.get("Epochs", ""))

    @admin.display(description="machine")
    def machine(self, comparison: Comparison) -> str:
        return str(comparison.facts.get("Machine", ""))

    @admin.display(description="report")
    def report_link(self, comparison: Comparison) -> str:
        url = reverse("admin:ml_comparison_report", args=[comparison.pk])
        return format_html('<a href="{}">Tables and figures</a>', url)

    def get_urls(self) -> list[URLPattern]:
        report = self.admin_site.admin_view(require_GET(self.report_view))
        return [path("<int:pk>/report/", report, name="ml_comparison_report"), *super().get_urls()]

    def report_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The page that the command wrote; it may show pictures and styles of its own and nothing else."""
        comparison = get_object_or_404(Comparison, pk=pk)
        if not self.has_view_permission(request, comparison):
            raise PermissionDenied
        with comparison.report.open("rb") as file:
            response = HttpResponse(file.read(), content_type="text/html; charset=utf-8")
        response["Content-Security-Policy"] = (
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
        )
        return response


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
