"""What a merge takes away: kept with its label edit, so that undoing it brings the class back as it was."""

from typing import Any

from django.db.models import Q

from ingest.models import Modality, ModalityName, OrganClass, OrganName

MODELS: dict[str, Any] = {"organ": (OrganClass, OrganName), "modality": (Modality, ModalityName)}


def kept_of(attribute: str, each: OrganClass | Modality, into: OrganClass | Modality) -> dict[str, Any]:
    """Of a class that is about to be merged into another, as JSON. attribute: "organ" or "modality"."""
    return {
        "attribute": attribute,
        "name": str(each),
        "fields": {field.attname: getattr(each, field.attname) for field in each._meta.concrete_fields},
        "other_names": [name.name for name in each.other_names.all()],
        "into": into.pk,
    }


def bring_back(kept: dict[str, Any]) -> None:
    """Make the class again, with its key and description, and give it the names that moved along.

    Names that were decided on since stay where they are. Where another class has its name by now, that one
    stays as it is.
    """
    attribute, fields = kept["attribute"], kept["fields"]
    classes, names = MODELS[attribute]
    of_that_name = Q(name=kept["name"]) if attribute == "organ" else Q(pk=kept["name"])
    if classes.objects.filter(of_that_name | Q(pk=fields.get("id", kept["name"]))).exists():
        return
    each = classes.objects.create(**fields)
    own = names.objects.filter(name=kept["name"])
    owners = [kept["into"], *own.values_list(attribute, flat=True)]  # that class may have been merged too
    moved = names.objects.filter(name__in=kept["other_names"], **{f"{attribute}__in": owners})
    moved.update(**{attribute: each})
    own.delete()
