"""What people send to ask with: files, a part of a picture, a mark."""

from collections.abc import Sequence

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.template.defaultfilters import filesizeformat

from search.asking import MOST_IMAGES, TOO_MANY

NO_FILE = "Choose an image to search with."


def sort_out(files: Sequence[UploadedFile]) -> tuple[list[UploadedFile], list[tuple[str, str]]]:
    """The files that can be taken; name and sentence of those that cannot."""
    taken: list[UploadedFile] = []
    refused: list[tuple[str, str]] = []
    room = settings.MAX_UPLOAD_BYTES
    for file in files:
        if problem := problem_with(file, room):
            refused.append((file.name or "", problem))
        else:
            taken.append(file)
            room -= file.size or 0
    return taken, refused


def problem_with(file: UploadedFile, room: int) -> str:
    """A sentence; empty when the file can be taken. room: bytes that the files before it have left."""
    limit = filesizeformat(settings.MAX_UPLOAD_BYTES)
    if not file.size:
        return "This file is empty."
    if file.size > settings.MAX_UPLOAD_BYTES:
        return f"This file is larger than {limit}, the most that is taken."
    if file.size > room:
        return f"There was no room for this file: all together, {limit} is the most that is taken."
    return ""


def why_none(refused: Sequence[tuple[str, str]]) -> str:
    """A sentence about files of which none can be taken."""
    if len(refused) > MOST_IMAGES:
        return TOO_MANY
    if len(refused) == 1:
        return refused[0][1]
    return " ".join(f"{name}: {problem}" for name, problem in refused) or NO_FILE


class RegionForm(forms.Form):
    """A rectangle in per cent of the picture's width and height."""

    left = forms.FloatField(min_value=0, max_value=100, initial=25)
    top = forms.FloatField(min_value=0, max_value=100, initial=25)
    right = forms.FloatField(min_value=0, max_value=100, initial=75)
    bottom = forms.FloatField(min_value=0, max_value=100, initial=75)

    def region(self) -> list[float]:
        """left, top, right, bottom, each 0 to 1."""
        return [self.cleaned_data[name] / 100 for name in ("left", "top", "right", "bottom")]


class MarkForm(forms.Form):
    image = forms.IntegerField(min_value=1, max_value=2**63 - 1)
    relevant = forms.ChoiceField(choices=[("yes", "relevant"), ("no", "not relevant"), ("none", "no mark")])

    def is_relevant(self) -> bool | None:
        return {"yes": True, "no": False}.get(self.cleaned_data["relevant"])
