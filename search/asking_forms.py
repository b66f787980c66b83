"""What people send to ask with: files, a part of a picture, a mark."""

from collections.abc import Sequence

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.template.defaultfilters import filesizeformat

NO_FILE = "Choose an image to search with."


def sort_out(files: Sequence[UploadedFile]) -> tuple[list[UploadedFile], list[tuple[str, str]]]:
    """The files that can be taken; name and sentence of those that cannot."""
    problems = [(file, problem_with(file)) for file in files]
    taken = [file for file, problem in problems if not problem]
    return taken, [(file.name or "", problem) for file, problem in problems if problem]


def problem_with(file: UploadedFile) -> str:
    """A sentence; empty when the file can be taken."""
    if not file.size:
        return "This file is empty."
    if file.size > settings.MAX_UPLOAD_BYTES:
        limit = filesizeformat(settings.MAX_UPLOAD_BYTES)
        return f"This file is larger than {limit}, the most that is taken."
    return ""


class RegionForm(forms.Form):
    """A rectangle in per cent of the picture's width and height."""

    left = forms.FloatField(min_value=0, max_value=100)
    top = forms.FloatField(min_value=0, max_value=100)
    right = forms.FloatField(min_value=0, max_value=100)
    bottom = forms.FloatField(min_value=0, max_value=100)

    def region(self) -> list[float]:
        """left, top, right, bottom, each 0 to 1."""
        return [self.cleaned_data[name] / 100 for name in ("left", "top", "right", "bottom")]


class MarkForm(forms.Form):
    image = forms.IntegerField(min_value=1, max_value=2**63 - 1)
    relevant = forms.ChoiceField(choices=[("yes", "relevant"), ("no", "not relevant"), ("none", "no mark")])

    def is_relevant(self) -> bool | None:
        return {"yes": True, "no": False}.get(self.cleaned_data["relevant"])
