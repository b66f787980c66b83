"""The collection in the admin: labels are edited here, the ledger is read."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Count, Min, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ingest.directories import FolderRefused
from ingest.labelling import LABELS, Labels, label, undo
from ingest.models import (
    Dataset,
    Image,
    ImageQuerySet,
    LabelEdit,
    LabelOrigin,
    Modality,
    OrganClass,
    OrganName,
    QuarantinedFile,
    Split,
    UploadBatch,
    UploadedFile,
    WatchedFolder,
    images_in_collection,
)
from ingest.server_folders import checked_folder


class WithImageCount(admin.ModelAdmin[Any]):
    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).annotate(image_count=images_in_collection())  # type: ignore[no-any-return]

    @admin.display(description="images", ordering="image_count")
    def image_count(self, row: Any) -> int:
        return int(row.image_count)


@admin.register(Dataset)
class DatasetAdmin(WithImageCount):
    list_display = ["name", "image_count", "created_by", "created_at"]
    list_select_related = ["created_by"]
    search_fields = ["name"]
    fields = [
        *["name", "description", "licence", "source", "citation"],
        *["slice_choice", "slice_step", "burned_in_text", "keeps_identifiers"],
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [] if request.user.has_perm("ingest.keep_identifiers") else ["keeps_identifiers"]

    def save_model(self, request: HttpRequest, obj: Dataset, form: Any, change: bool) -> None:
        if not change:
            obj.created_by = request.user  # type: ignore[assignment]
        super().save_model(request, obj, form, change)


@admin.register(OrganName)
class OrganNameAdmin(admin.ModelAdmin[OrganName]):
    """What names that come with files mean. A meaning that is changed here is for files to come."""

    list_display = ["name", "organ", "is_ignored", "decided_by", "decided_at"]
    list_filter = ["is_ignored"]
    list_select_related = ["organ", "decided_by"]
    search_fields = ["name", "organ__name"]
    fields = ["name", "organ", "is_ignored"]


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """Rows that importing writes and people read."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def thumbnail(image: Image, height: int) -> SafeString:
    url = reverse("search:image_preview", args=[image.pk])
    return format_html('<img src="{}" height="{}" loading="lazy" alt="image {}">', url, height, image.pk)


READ_ONLY = [
    "dataset", "source_path", "created_at", "file_format", "transfer_syntax_uid", "rows", "columns",
    "bits_stored", "frame_number", "number_of_frames", "body_part_examined", "tags", "assumptions",
    "deidentification", "patient_key", "study_key", "series_key", "group_key", "sha256",
]  # fmt: skip


class LabelsForm(forms.Form):
    """What the images that are chosen in the list are to be labelled."""

    organ = forms.ModelChoiceField(OrganClass.objects.all(), required=False)
    modality = forms.ModelChoiceField(Modality.objects.all(), required=False)
    split = forms.ChoiceField(choices=[("", "---------"), *Split.choices], required=False)
    take_away = forms.MultipleChoiceField(
        choices=[(name, name) for name in LABELS],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="These labels are taken away. What is neither chosen nor taken away stays as it is.",
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not any(cleaned.get(name) for name in (*LABELS, "take_away")):
            raise forms.ValidationError("Choose a label to give, or one to take away.")
        return cleaned

    def labels(self) -> Labels:
        """Raises KeyError before the form is valid."""
        chosen = self.cleaned_data
        given = {name: key_of(chosen[name]) or None for name in LABELS}
        return Labels(**given | dict.fromkeys(chosen["take_away"], ""))  # type: ignore[arg-type]


def key_of(value: Any) -> Any:
    """The key of what a form's field gives: a row's, or the text itself."""
    return "" if value is None else getattr(value, "pk", value)


@admin.register(Image)
class ImageAdmin(admin.ModelAdmin[Image]):
    """Only the labels can be changed: the rest is what the file says."""

    list_display = ["id", "small_preview", "organ", "modality", "split", "dataset", "source_path"]
    list_filter = ["organ", "modality", "split", "dataset", "file_format"]
    list_select_related = ["organ", "modality", "dataset"]
    list_editable = list(LABELS)
    list_per_page = 50
    search_fields = ["=id"]
    search_help_text = "The image's number."
    show_full_result_count = False
    fields = ["large_preview", *LABELS, *READ_ONLY]
    readonly_fields = ["large_preview", *READ_ONLY]

    actions = ["label_selected"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Image, form: Any, change: bool) -> None:
        if given := {name: key_of(form.cleaned_data[name]) for name in LABELS if name in form.changed_data}:
            label(Image.objects.filter(pk=obj.pk), Labels(**given), request.user, LabelOrigin.ADMIN)
        super().save_model(request, obj, form, change)

    @admin.action(description="Label the selected images", permissions=["change"])
    def label_selected(self, request: HttpRequest, queryset: ImageQuerySet) -> HttpResponse | None:
        form = LabelsForm(request.POST if "confirmed" in request.POST else None)
        if form.is_valid():
            edit = label(queryset, form.labels(), request.user, LabelOrigin.ADMIN)
            images = edit.changes.values("image").distinct().count()
            undo_url = reverse("admin:ingest_labeledit_changelist")
            sentence = '{} image{} labelled. It can be undone in the <a href="{}">label edits</a>.'
            self.message_user(
                request, format_html(sentence, images, "" if images == 1 else "s", undo_url), messages.SUCCESS
            )
            return None
        number = queryset.count()
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Label {number:,} image{'' if number == 1 else 's'}",
            "form": form,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
        }
        return TemplateResponse(request, "admin/ingest/label_selected.html", context)

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
        rejected += f", {batch.files_quarantined} in quarantine" if batch.files_quarantined else ""
        done = batch.files_imported + batch.files_duplicate + batch.files_checked
        return f"{done} of {batch.files_total} {'tried' if batch.is_dry_run else 'in'}{rejected}"


class WatchedFolderForm(forms.ModelForm[WatchedFolder]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if settings.IMPORT_ROOTS and "path" in self.fields:
            roots = " or ".join(settings.IMPORT_ROOTS)
            self.fields["path"].help_text = f"Its whole path or address, below {roots}."

    def clean_path(self) -> str:
        try:
            return str(checked_folder(self.cleaned_data["path"]))
        except FolderRefused as refused:
            raise forms.ValidationError(str(refused)) from refused


@admin.register(WatchedFolder)
class WatchedFolderAdmin(admin.ModelAdmin[WatchedFolder]):
    """Folders and buckets that the server can see, whose new files come in by themselves."""

    form = WatchedFolderForm
    list_display = ["path", "dataset", "label_source", "is_active", "looked_at", "taken", "problem"]
    list_select_related = ["dataset"]
    fields = ["path", "dataset", "label_source", "makes_organs", "is_active", "looked_at", "problem"]
    readonly_fields = ["looked_at", "problem"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[WatchedFolder]:
        return WatchedFolder.objects.annotate(taken=Count("files", filter=Q(files__taken_at__isnull=False)))

    @admin.display(description="files taken in")
    def taken(self, folder: Any) -> int:
        return int(folder.taken)


@admin.register(UploadedFile)
class UploadedFileAdmin(ReadOnlyAdmin):
    list_display = ["id", "batch", "path", "state", "reason", "finished_at"]
    list_filter = ["state", "reason_code"]
    list_select_related = ["batch__dataset"]
    search_fields = ["path", "=batch__id"]
    show_full_result_count = False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(QuarantinedFile)
class QuarantinedFileAdmin(ReadOnlyAdmin):
    """Who has decided what on files that were held back."""

    list_display = ["id", "file", "decision", "decided_by", "decided_at"]
    list_filter = ["decision", "decided_by"]
    list_select_related = ["file", "decided_by"]
    fields = ["file", "decision", "decided_by", "decided_at", "boxes", "created_at"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(LabelEdit)
class LabelEditAdmin(ReadOnlyAdmin):
    """Who labelled what, and how to undo it."""

    list_display = ["id", "created_at", "created_by", "origin", "what", "undone"]
    list_filter = ["origin", "created_by"]
    list_select_related = ["created_by", "undone_by"]
    fields = ["created_at", "created_by", "origin", "what", "undone"]
    readonly_fields = ["what", "undone"]
    actions = ["undo_selected"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[LabelEdit]:
        return LabelEdit.objects.annotate(
            images=Count("changes__image", distinct=True), first_image=Min("changes__image")
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="labels")
    def what(self, edit: Any) -> str:
        of = f"image {edit.first_image}" if edit.images == 1 else f"{edit.images:,} images"
        return f"{edit.summary}, of {of}"

    @admin.display(description="undone")
    def undone(self, edit: LabelEdit) -> str:
        if edit.undone_at is None:
            return ""
        return f"{edit.undone_at:%Y-%m-%d %H:%M}" + (f" by {edit.undone_by}" if edit.undone_by else "")

    def has_undo_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("ingest.change_image")

    @admin.action(description="Undo", permissions=["undo"])
    def undo_selected(self, request: HttpRequest, queryset: QuerySet[LabelEdit]) -> None:
        """The latest first, so that each finds the labels that it left."""
        changed = sum(undo(edit, request.user) for edit in queryset.order_by("-pk"))
        left = "Labels that were given anew since stay as they are."
        self.message_user(
            request, f"Undone: {changed:,} label{'' if changed == 1 else 's'}. {left}", messages.SUCCESS
        )
