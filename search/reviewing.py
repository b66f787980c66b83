"""The review: images whose organ a person should look at, those first whose answer teaches most.

What somebody has said an organ of, or confirmed, is reviewed; undoing that brings the image back.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import Count, Exists, F, OuterRef, Q, TextChoices
from django.db.models.fields.json import KT
from django.utils import timezone

from ingest.labelling import Labels, label_each
from ingest.models import Dataset, Image, LabelChange, LabelEdit, LabelOrigin, OrganClass
from ml.models import ModelVersion
from search.cases import Case, without_near_duplicates
from search.models import SURE, Embedding, Mark, VersionIndex, as_array
from search.ranking import EmbeddingQuerySet

SHOWN = 12
LOOKED_AT = 600  # of the first ones, from which unlike ones are taken
PROJECTIONS_COMPARED = 5 * SHOWN
MOST_COUNTED = 10_000
NO_REVIEW = [LabelOrigin.NAME, LabelOrigin.MERGE]  # of many images, none of which was looked at


class Why(TextChoices):
    """Why an image waits for a person."""

    CONTRADICTS = "contradicts", "label contradicted"
    UNLABELLED = "unlabelled", "no label"
    UNSURE = "unsure", "network unsure"
    DOUBTED = "doubted", "doubted by readers"


@dataclass(frozen=True)
class Waiting:
    """An image that waits, with what its label is and what the network sees."""

    image: Image
    predicted: OrganClass
    probability: float
    more_of_series: int  # other images of its series that wait for the same reason


def waiting(version: ModelVersion | None, why: Why) -> EmbeddingQuerySet:
    """Embeddings of images that nobody has reviewed, the most instructive first."""
    said = LabelChange.objects.exclude(edit__origin__in=NO_REVIEW).filter(edit__undone_at=None)
    spoken = said.filter(image=OuterRef("image"), attribute="organ")
    found = Embedding.objects.filter(model_version=version).filter(~Exists(spoken))
    found = found.exclude(dataset__in=Dataset.objects.trashed())  # as `present`, within the one question
    if why == Why.CONTRADICTS:  # the surer the network, the likelier the label is wrong
        return found.exclude(organ=F("predicted_organ")).order_by("-organ_probability", "pk")
    if why == Why.UNLABELLED:
        return found.filter(image__organ=None).order_by("organ_probability", "pk")
    if why == Why.UNSURE:
        return found.filter(
            organ=F("predicted_organ"), image__organ__isnull=False, organ_probability__lt=SURE
        ).order_by("organ_probability", "pk")
    doubts = (
        Mark.objects.alias(seen=F("query__organ_probabilities"))
        .alias(asked=KT("seen__0__0"))
        .filter(image=OuterRef("image"), is_relevant=False, asked=OuterRef("image__organ__name"))
        .order_by()
    )
    times = doubts.values("image").annotate(number=Count("pk")).values("number")
    return found.alias(times=times).filter(Exists(doubts)).order_by("-times", "pk")


def counted(version: ModelVersion | None) -> dict[Why, int]:
    """How many wait, up to one more than MOST_COUNTED."""
    return {why: waiting(version, why).order_by()[: MOST_COUNTED + 1].count() for why in Why}


def to_review(version: ModelVersion | None, why: Why, skipped: Collection[int]) -> list[Waiting]:
    """Up to SHOWN images, one of a series and none nearly the same as another, while there are such."""
    found = waiting(version, why).exclude(image__in=skipped)
    rows = list(found.values_list("pk", "image__series_key")[:LOOKED_AT])
    chosen = unlike_ones(rows, version)
    chosen += [pk for pk, _ in rows if pk not in set(chosen)]
    embeddings = Embedding.objects.select_related("image__organ", "image__dataset", "predicted_organ")
    by_pk = embeddings.defer("fc1", "projection").in_bulk(chosen[:SHOWN])
    shown = [by_pk[pk] for pk in chosen[:SHOWN] if pk in by_pk]
    series = {embedding.image.series_key for embedding in shown} - {""}
    together = found.filter(image__series_key__in=series).order_by()
    sizes = dict(together.values_list("image__series_key").annotate(Count("pk")))
    return [
        Waiting(
            embedding.image,
            embedding.predicted_organ,
            embedding.organ_probability,
            max(0, sizes.get(embedding.image.series_key, 1) - 1),
        )
        for embedding in shown
    ]


def unlike_ones(rows: Sequence[tuple[int, str]], version: ModelVersion | None) -> list[int]:
    """Of (embedding, series), in their order: the first of each series, but nearly the same ones."""
    seen: set[str] = set()
    firsts: list[int] = []
    for pk, series in rows:
        if not series or series not in seen:
            firsts.append(pk)
        seen.add(series)
    compared = firsts[:PROJECTIONS_COMPARED]
    index = VersionIndex.objects.filter(model_version=version).first()
    if index is None or not index.near_duplicate or not compared:
        return firsts
    known = dict(Embedding.objects.filter(pk__in=compared).values_list("pk", "projection"))
    cases = [Case(pk, 0.0, "") for pk in compared if pk in known]
    projections = [as_array(known[case.embedding_id]) for case in cases]
    heads = without_near_duplicates(cases, projections, index.near_duplicate)
    return [case.embedding_id for case in heads] + firsts[PROJECTIONS_COMPARED:]


def images_meant(version: ModelVersion | None, why: Why, image: Image, whole_series: bool) -> list[int]:
    """The image, or with it those of its series that wait for the same reason."""
    if not whole_series or not image.series_key:
        return [image.pk]
    same = waiting(version, why).filter(image__series_key=image.series_key).order_by()
    return sorted({image.pk, *same.values_list("image", flat=True)})


def accept(
    version: ModelVersion | None, images: Sequence[int], user: User | AnonymousUser
) -> LabelEdit | None:
    """Label images as what the network sees, in one act; None where there is nothing to label."""
    seen: dict[int, list[int]] = {}
    found = Embedding.objects.filter(model_version=version, image__in=images)
    for image, organ in found.values_list("image", "predicted_organ"):
        seen.setdefault(organ, []).append(image)
    return say(dict(sorted(seen.items())), user)


def keep(images: Sequence[int], user: User | AnonymousUser) -> LabelEdit | None:
    """Confirm the labels that images have; what has none stays unreviewed."""
    labelled: dict[int, list[int]] = {}
    for image, organ in Image.objects.labelled().filter(pk__in=images).values_list("pk", "organ"):
        labelled.setdefault(organ, []).append(image)
    return say(labelled, user)


def say(organs: dict[int, list[int]], user: User | AnonymousUser) -> LabelEdit | None:
    """organs: images by the key of the organ that they show."""
    parts = [(Image.objects.filter(pk__in=ids), Labels(organ=organ)) for organ, ids in organs.items()]
    return label_each(parts, user, LabelOrigin.REVIEW) if parts else None


def reviewed_today(user: User | AnonymousUser) -> int:
    """Images that this person has reviewed since midnight."""
    said = Q(edit__created_by=user.pk, edit__origin=LabelOrigin.REVIEW, edit__undone_at=None)
    since = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    changes = LabelChange.objects.filter(said, edit__created_at__gte=since)
    return changes.values("image").distinct().count()
