"""The curators' pages of classes: all organs and modalities, and one of them."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from ingest.labelling import undo
from ingest.models import LabelEdit, LabelOrigin, Modality, ModalityName, OrganClass, OrganName
from search import classes
from search.classes import ClassError
from search.views import Request, requires


class OrganForm(forms.Form):
    name = forms.CharField(max_length=64)
    description = forms.CharField(required=False, widget=forms.Textarea({"rows": 3}))


class ModalityForm(forms.ModelForm[Modality]):
    class Meta:
        model = Modality
        fields = ["name", "description"]
        widgets = {"description": forms.Textarea({"rows": 3})}


@require_safe
@requires("ingest.change_organclass")
def class_list(request: Request) -> HttpResponse:
    context = {
        "kinds": [
            ("organ", "Organs", classes.rows_of(OrganClass, "organ")),
            ("modality", "Modalities", classes.rows_of(Modality, "modality")),
        ],
        "merges": classes.merges(),
    }
    return render(request, "search/class_list.html", context)


@require_POST
@requires("ingest.change_organclass")
def class_add(request: Request, kind: str) -> HttpResponse:
    name = request.POST.get("name", "")
    try:
        added = (classes.add_organ if kind == "organ" else classes.add_modality)(name, request.user)
        messages.success(request, f"There is {added} now.")
    except ClassError as error:
        messages.warning(request, str(error))
    return redirect("curation:classes")


@require_http_methods(["GET", "HEAD", "POST"])
@requires("ingest.change_organclass")
def organ_detail(request: Request, pk: int) -> HttpResponse:
    """One organ; a post saves what is told of it."""
    organ = get_object_or_404(OrganClass, pk=pk)
    form = OrganForm(request.POST or None, initial={"name": organ.name, "description": organ.description})
    if request.method == "POST" and form.is_valid():
        try:
            classes.rename_organ(organ, form.cleaned_data["name"], request.user)
        except ClassError as error:
            form.add_error("name", str(error))
        else:
            OrganClass.objects.filter(pk=pk).update(description=form.cleaned_data["description"])
            messages.success(request, "Saved.")
            return redirect("curation:organ", pk)
    return class_page(request, "organ", organ, form)


@require_http_methods(["GET", "HEAD", "POST"])
@requires("ingest.change_organclass")
def modality_detail(request: Request, pk: str) -> HttpResponse:
    modality = get_object_or_404(Modality, pk=pk)
    form = ModalityForm(request.POST or None, instance=modality)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Saved.")
        return redirect("curation:modality", pk)
    return class_page(request, "modality", modality, form)


def class_page(request: Request, kind: str, each: Any, form: Any) -> HttpResponse:
    rows = classes.rows_of(type(each), kind)
    context = {
        "kind": kind,
        "row": next(row for row in rows if row.each.pk == each.pk),
        "others": [row.each for row in rows if row.each.pk != each.pk],
        "form": form,
    }
    return render(request, "search/class_detail.html", context, status=422 if form.errors else 200)


def key_of(is_organ: bool, text: str) -> int | str:
    """Of a class, as the address or a form says it; a key that no organ has where it is no number."""
    return (int(text) if text.isdecimal() else 0) if is_organ else text


@require_POST
@requires("ingest.change_organclass")
def class_merge(request: Request, kind: str, pk: str) -> HttpResponse:
    is_organ = kind == "organ"
    model: Any = OrganClass if is_organ else Modality
    each = get_object_or_404(model, pk=key_of(is_organ, pk))
    into = key_of(is_organ, request.POST.get("into", ""))
    other = model.objects.filter(pk=into).first()
    try:
        if other is None:
            raise ClassError("Choose what to merge it into.")
        (classes.merge_organs if is_organ else classes.merge_modalities)(each, other, request.user)
    except ClassError as error:
        messages.warning(request, str(error))
        return redirect(f"curation:{kind}", pk)
    messages.success(request, f"{each} is {other} now.")
    return redirect("curation:classes")


@require_POST
@requires("ingest.change_organclass")
def class_name(request: Request, kind: str, pk: int) -> HttpResponse:
    """Another name is taken away from its class, or given to another one."""
    name: Any = get_object_or_404(OrganName if kind == "organ" else ModalityName, pk=pk)
    owner = getattr(name, f"{kind}_id")
    model: Any = OrganClass if kind == "organ" else Modality
    to = model.objects.filter(pk=key_of(kind == "organ", request.POST.get("to", ""))).first()
    try:
        classes.take_name_away(name, to, request.user)
        messages.success(request, f"{name} means {to} now." if to else f"{name} is no name of it any more.")
    except ClassError as error:
        messages.warning(request, str(error))
    return redirect(f"curation:{kind}", owner) if owner else redirect("curation:classes")


@require_POST
@requires("ingest.change_image")
def class_undo(request: Request, pk: int) -> HttpResponse:
    """Take a merge apart again."""
    edit = get_object_or_404(LabelEdit, pk=pk, origin=LabelOrigin.MERGE)
    changed = undo(edit, request.user)
    given_back = f": {changed:,} label{'' if changed == 1 else 's'} given back" if changed else ""
    messages.success(request, f"Undone{given_back}.")
    return redirect("curation:classes")
