"""Organs and modalities in the admin: what is in use is not deleted, but merged on the page of classes."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.utils import unquote
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html

from ingest.admin import WithImageCount
from ingest.models import Modality, OrganClass
from search.classes import reason_to_keep


class ClassAdmin(WithImageCount):
    """A class is renamed and merged on the page of classes, which knows where its name stands besides."""

    page: str  # the address of its page of classes
    actions = ["delete_selected"]

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        each = self.get_object(request, unquote(object_id))
        with transaction.atomic():
            if each and self.has_delete_permission(request, each) and self.are_used(request, [each.pk]):
                return redirect(f"admin:ingest_{self.opts.model_name}_change", object_id)
            return super().delete_view(request, object_id, extra_context)

    @admin.action(description="Delete selected %(verbose_name_plural)s", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        with transaction.atomic():
            if self.are_used(request, queryset.values_list("pk", flat=True)):
                return None
            return delete_selected(self, request, queryset)

    def are_used(self, request: HttpRequest, keys: Iterable[Any]) -> bool:
        """Tells the person of each that is; they are locked, so that no image comes to use one meanwhile."""
        rows = self.model._default_manager.select_for_update().filter(pk__in=list(keys))
        used = [(each, reason) for each in rows if (reason := reason_to_keep(each))]
        for each, reason in used:
            sentence = '{} <a href="{}">Merge it into another {}</a> instead.'
            link = f"{reverse(self.page, args=[each.pk])}#merge"
            self.message_user(
                request, format_html(sentence, reason, link, self.opts.verbose_name), messages.WARNING
            )
        return bool(used)


@admin.register(OrganClass)
class OrganClassAdmin(ClassAdmin):
    page = "curation:organ"
    list_display = ["name", "image_count"]
    search_fields = ["name"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["name"] if obj else []


@admin.register(Modality)
class ModalityAdmin(ClassAdmin):
    page = "curation:modality"
    list_display = ["code", "name", "image_count"]
    search_fields = ["code", "name"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["code"] if obj else []
