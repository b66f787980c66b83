"""What belongs to one image of the collection: its tags in words, what is seen in it, its neighbours."""

from typing import Any

from django.db.models import Q, QuerySet
from pydicom.datadict import dictionary_description, tag_for_keyword

from ingest.models import Image, LabelChange
from ml.models import ModelVersion
from search.models import Embedding


def seen_by_active_version(image: Image) -> Embedding | None:
    return seen_by(image, ModelVersion.objects.active())


def seen_by(image: Image, version: ModelVersion | None) -> Embedding | None:
    embeddings = Embedding.objects.filter(image=image, model_version=version)
    return embeddings.defer("fc1", "projection").select_related("predicted_organ", "model_version").first()


def neighbours_of(image: Image) -> QuerySet[Image]:
    """The other frames of the image's file and the other images of its series."""
    together = Q(sha256=image.sha256)
    if image.series_key:
        together |= Q(series_key=image.series_key)
    same_group = Image.objects.present().filter(group_key=image.group_key)  # what the index serves
    return same_group.filter(together).exclude(pk=image.pk).order_by("source_path", "frame_number")


def history_of(image: Image) -> QuerySet[LabelChange]:
    """What people have said of its labels, the latest first."""
    return image.label_changes.select_related("edit__created_by").order_by("-pk")[:20]


def readable_tags(image: Image) -> list[tuple[str, str]]:
    """The permitted DICOM attributes in the standard's words: SliceThickness is Slice Thickness."""
    return [(describe_keyword(keyword), as_text(value)) for keyword, value in image.tags.items()]


def describe_keyword(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    return dictionary_description(tag) if tag else keyword


def as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
