"""The classes that images are labelled with, and the names that come with files."""

from typing import Any

from django.conf import settings
from django.db import models


class OrganClass(models.Model):
    """A body organ, the label that the network learns (the paper's class)."""

    name = models.SlugField(max_length=64, unique=True)
    description = models.TextField(blank=True, help_text="What belongs to it and what does not.")

    class Meta:
        ordering = ["name"]
        verbose_name = "organ"

    def __str__(self) -> str:
        return self.name


class IncomingName(models.Model):
    """A name that came with files: what it means is decided once (ingest/naming.py)."""

    name: Any
    is_ignored: Any
    created_at = models.DateTimeField(auto_now_add=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True
        ordering = ["name"]

    def __str__(self) -> str:
        return str(self.name)


class OrganName(IncomingName):
    """A name that came with files and is no class's: what it means is decided once (ingest/naming.py)."""

    name = models.SlugField(max_length=64, unique=True)
    organ = models.ForeignKey(OrganClass, models.SET_NULL, null=True, blank=True, related_name="other_names")
    is_ignored = models.BooleanField(default=False, help_text="It names no organ of the collection.")
    former_key = models.BigIntegerField(
        null=True, editable=False, help_text="Of the class that had this name until it was merged."
    )


class Modality(models.Model):
    """An imaging modality under its DICOM code (PS3.3 C.7.3.1.1.1): CT, MR, DX, US, ..."""

    code = models.CharField(max_length=16, primary_key=True)
    name = models.CharField(max_length=64, blank=True)
    description = models.TextField(blank=True, help_text="What belongs to it and what does not.")

    class Meta:
        ordering = ["code"]
        verbose_name_plural = "modalities"

    def __str__(self) -> str:
        return self.code


class ModalityName(IncomingName):
    """A code that came with files and is no modality's: what it means is decided once (ingest/naming.py)."""

    name = models.CharField(max_length=16, unique=True, help_text="Letters and digits, in capitals.")
    modality = models.ForeignKey(Modality, models.SET_NULL, null=True, blank=True, related_name="other_names")
    is_ignored = models.BooleanField(default=False, help_text="It names no modality of the collection.")
