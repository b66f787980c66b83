"""What a search is among: the images that its filters keep, and how many of each organ and modality."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from hashlib import sha256
from typing import Any

from django.contrib.postgres.search import SearchQuery
from django.core.cache import cache
from django.db.models import Q
from redis.exceptions import RedisError

from ingest.models import Dataset, Image, OrganClass
from search.models import Embedding, Query
from search.options import AGE_BANDS, Scope, SearchOptions
from search.ranking import EXACT_SCAN_ROWS, EmbeddingQuerySet

REMEMBERED_SECONDS = 600


def images_searched(query: Query, options: SearchOptions) -> EmbeddingQuerySet:
    """What the filters but organ and modality keep, without the query's own images unless they are wanted."""
    found = images_filtered(query, options)
    own = [] if options.own else own_embeddings(query)
    return found.exclude(pk__in=own) if own else found


def images_filtered(query: Query, options: SearchOptions) -> EmbeddingQuerySet:
    """What the filters of images keep, of the images there were when the query was answered."""
    found: EmbeddingQuerySet = Embedding.objects.present().filter(model_version=query.model_version_id)
    if query.newest_embedding is not None:
        found = found.filter(pk__lte=query.newest_embedding)
    if options.dataset:
        found = found.filter(dataset__in=list(Dataset.objects.filter(name=options.dataset)))
    if wanted := image_conditions(options):
        found = found.filter(wanted)
    return found


def image_conditions(options: SearchOptions) -> Q:
    """Conditions on the image; empty where nothing is asked of it."""
    wanted = Q()
    if options.view:
        wanted &= Q(image__view_position=options.view)
    if options.sex:
        wanted &= Q(image__patient_sex=options.sex)
    if options.age:
        wanted &= Q(image__patient_age_years__range=AGE_BANDS[options.age])
    if options.words:
        wanted &= Q(image__words=SearchQuery(options.words, config="simple", search_type="websearch"))
    if options.imported_from:
        wanted &= Q(image__created_at__date__gte=options.imported_from)
    if options.imported_to:
        wanted &= Q(image__created_at__date__lte=options.imported_to)
    if options.series_of is not None:
        series = Image.objects.filter(pk=options.series_of).values_list("series_key", flat=True).first()
        wanted &= Q(image__series_key=series) if series else Q(image=options.series_of)
    return wanted


def own_embeddings(query: Query) -> list[int]:
    """Ids: of the query itself, its patient's or volume's other images, and its exact duplicates.

    Of a query from several images, of all of them; of a region or a refinement, of what it came from.
    """
    same = Q(pk__in=[])
    for one in query.origins():
        if one.image_id:
            same |= Q(pk=one.image_id)
        if one.group_key:
            same |= Q(group_key=one.group_key)
        if one.sha256:
            same |= Q(sha256=one.sha256)
    images = list(Image.objects.filter(same).values_list("pk", flat=True))
    return list(
        Embedding.objects.filter(model_version=query.model_version_id, image__in=images).values_list(
            "pk", flat=True
        )
    )


def searched_organs(query: Query, options: SearchOptions) -> list[str]:
    """Names of the organs that the scope keeps to; empty for all of them."""
    if options.organ:
        return [options.organ]
    return query.likely_organs if options.scope == Scope.PREDICTED else []


Tally = list[tuple[int, str | None, int]]  # organ id, modality, number of images


def tally_of(filtered: EmbeddingQuerySet, own: list[int], query: Query, options: SearchOptions) -> Tally:
    """How many images of each organ and modality there are besides the query's own.

    Counting many takes long and is the same for every query until images come in: it is remembered a while.
    """
    digest = digest_of(query, options, but=("scope", "organ", "modality", "own"))
    key = f"tally:{query.model_version_id}:{digest}"
    tally = recalled(key)
    if tally is None:
        tally = filtered.count_by("organ", "modality")
        if sum(number for *_, number in tally) > EXACT_SCAN_ROWS:
            remember(key, tally)
    left = Counter({(organ, modality): number for organ, modality, number in tally})
    left.subtract(filtered.filter(pk__in=own).values_list("organ", "modality") if own else [])
    return [(organ, modality, number) for (organ, modality), number in left.items() if number > 0]


def digest_of(query: Query, options: SearchOptions, but: Sequence[str]) -> str:
    """Of what is searched; `collapse` never counts."""
    names = [field.name for field in fields(options) if field.name not in (*but, "collapse")]
    trashed = Dataset.objects.trashed().order_by("pk").values_list("pk", flat=True)
    asked = [
        str(query.newest_embedding),
        str(list(trashed)),
        *[f"{name}={getattr(options, name)}" for name in names],
    ]
    return sha256("\0".join(asked).encode()).hexdigest()


def recalled(key: str) -> Any:
    """None where nothing is remembered, or the cache is away."""
    with suppress(RedisError):
        return cache.get(key)
    return None


def remember(key: str, value: Any) -> None:
    with suppress(RedisError):
        cache.set(key, value, REMEMBERED_SECONDS)


class OrganNames:
    def __init__(self) -> None:
        self.names: dict[int, str] = dict(OrganClass.objects.values_list("pk", "name"))
        self.ids = {name: pk for pk, name in self.names.items()}


def organ_facets(tally: Tally, options: SearchOptions, organs: OrganNames) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for organ, modality, number in tally:
        if options.modality in ("", modality):
            counts[organs.names[organ]] += number
    return sorted(counts.items())


def modality_facets(tally: Tally, in_scope: set[int]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for organ, modality, number in tally:
        if organ in in_scope and modality:
            counts[modality] += number
    return sorted(counts.items())


def newer_images(query: Query) -> int:
    if query.newest_embedding is None:
        return 0
    later = Embedding.objects.present().filter(
        pk__gt=query.newest_embedding, model_version=query.model_version_id
    )
    return later.count()
