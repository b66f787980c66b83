"""Who labelled what."""

from typing import Any

from django.conf import settings
from django.db import models

from ingest.models.images import Image


class LabelOrigin(models.TextChoices):
    """Where people label."""

    REVIEW = "review", "the review"
    NAME = "name", "a decision on its name"
    ADMIN = "admin", "the admin"
    SPLIT = "split", "a split by patient"
    MERGE = "merge", "a merge of classes"
    DUPLICATE = "duplicate", "a merge of duplicates"


class LabelEdit(models.Model):
    """One act of labelling by a person: of one image or of many. Undone as one."""

    origin = models.CharField(max_length=16, choices=LabelOrigin)
    summary = models.CharField(max_length=200, help_text="The labels given, in words.")
    merged: models.JSONField[Any, Any] = models.JSONField(
        default=dict, editable=False, help_text="Of a merge: the class that it took away (ingest/merged.py)."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="label_edits"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    undone_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    undone_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"label edit {self.pk}"


class LabelChange(models.Model):
    """What an edit made of one label of one image; the same before and after: a person has confirmed it."""

    edit = models.ForeignKey(LabelEdit, models.CASCADE, related_name="changes")
    image = models.ForeignKey(Image, models.CASCADE, related_name="label_changes")
    attribute = models.CharField(max_length=16, help_text="organ, modality or split")
    before = models.CharField(max_length=64, blank=True, help_text="An organ's key, a code; empty for none.")
    after = models.CharField(max_length=64, blank=True)

    def __str__(self) -> str:
        return f"{self.attribute} of image {self.image_id}"
