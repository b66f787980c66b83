"""The approximate path with a real index: it is used, finds what a scan finds, and pages hold still."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext

from ingest.models import Image, Modality, OrganClass
from ml.models import ModelVersion, VersionStatus
from search import filtering, ivfflat, ranking, retrieval
from search.models import Embedding, Query, QueryStatus, VersionIndex
from search.options import Collapse, Scope, SearchOptions
from search.ranking import Path, Point, Ranking
from search.retrieval import search
from tests import factories

SIZE, GROUPS = 3_000, 40
INSIDE, OUTSIDE = 320, 64  # dimensions in use: of the projection's 512, and of the others
USED = np.r_[:INSIDE, 512 : 512 + OUTSIDE]
ORGANS = ["brain", "chest", "kidney"]
PLAIN = SearchOptions(scope=Scope.ALL, collapse=Collapse.NONE)


@dataclass
class Collection:
    version: ModelVersion
    fc1: np.ndarray  # (SIZE, 4096), as stored
    ids: np.ndarray  # of the embeddings

    def exact(self, fc1: np.ndarray, kept: np.ndarray | None = None) -> list[int]:
        """Ids by (distance, id), of the rows for which `kept` holds."""
        squared = ((self.fc1[:, USED] - fc1[USED]) ** 2).sum(1)
        order = np.lexsort((self.ids, squared.astype(np.float32)))
        return [int(self.ids[row]) for row in order if kept is None or kept[row]]

    def image_of(self, pk: int) -> int:
        return int(Embedding.objects.values_list("image", flat=True).get(pk=pk))


def points(number: int, seed: int) -> np.ndarray:
    """float32 (number, 4096), in classes: most of what tells them apart lies in the first dimensions, as
    after a PCA, a little of it outside the projection. Of every fifty two are exact duplicates."""
    rng, classes = (
        np.random.default_rng(seed),
        np.random.default_rng(0).normal(0, 2, (GROUPS, INSIDE + OUTSIDE)),
    )
    drawn = classes[rng.integers(GROUPS, size=number)] + rng.normal(size=(number, INSIDE + OUTSIDE))
    fading = np.r_[1 / np.sqrt(np.arange(1, INSIDE + 1)), np.full(OUTSIDE, 0.02)]
    fc1 = np.zeros((number, 4096), np.float32)
    fc1[:, USED] = drawn * fading
    fc1[1::50] = fc1[: len(fc1[1::50]) * 50 : 50]
    return fc1.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def collection(lasting_rows: Any) -> Iterator[Collection]:
    with lasting_rows.unblock():
        version = ModelVersion.objects.create(
            recipe="default", checkpoint="none", organs=ORGANS, modalities=["CT"], status=VersionStatus.ACTIVE
        )
        fc1 = points(SIZE, seed=1)
        ids = add_images(version, fc1)
        ivfflat.build(version, SIZE)
        VersionIndex.objects.create(model_version=version, images=SIZE, has_ivfflat=True, blend_weight=1.5)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE search_embedding, ingest_image")
    yield Collection(version, fc1, np.array(ids))
    with lasting_rows.unblock():
        ivfflat.drop(version.pk)


def add_images(version: ModelVersion, fc1: np.ndarray) -> list[int]:
    """Organs in turn; the ids of the embeddings."""
    organs = [OrganClass.objects.get_or_create(name=name)[0] for name in ORGANS]
    modality = Modality.objects.get_or_create(code="CT")[0]
    images = factories.make_bare_images(len(fc1))
    for number, image in enumerate(images):
        image.organ, image.modality = organs[number % len(organs)], modality
    Image.objects.bulk_create(images)
    return [embedding.pk for embedding in factories.make_embeddings(images, version, fc1)]


@pytest.fixture(autouse=True)
def index_preferred(collection: Collection, empty_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choices between scan and index, ours and PostgreSQL's, as in a collection much larger."""
    for module in (ranking, filtering, retrieval):
        monkeypatch.setattr(module, "EXACT_SCAN_ROWS", 500)
    monkeypatch.setattr(ranking, "INDEX_CANDIDATES", (20, 400, 2_000))
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")


def ask(collection: Collection, fc1: np.ndarray, **fields: Any) -> Query:
    query = Query(
        status=QueryStatus.ANSWERED,
        model_version=collection.version,
        fc1=fc1,
        projection=fc1[:512],
        organ_probabilities=[["brain", 0.6], ["chest", 0.3], ["kidney", 0.1]],
        **fields,
    )
    query.see_newest()
    query.save()
    return query


def point(fc1: np.ndarray) -> Point:
    return Point(fc1, fc1[:512])


def test_the_index_is_used(collection: Collection) -> None:
    """As PostgreSQL itself explains the statement that was sent, filters and all."""
    organs = list(OrganClass.objects.filter(name__in=ORGANS))
    searched = [
        Embedding.objects.for_version(collection.version),
        Embedding.objects.for_version(collection.version).filter(pk__lte=int(collection.ids[-1])),
        Embedding.objects.for_version(collection.version).exclude(pk__in=[1, 2]).filter(organ__in=organs),
    ]
    for found in searched:
        with CaptureQueriesContext(
            connection,
        ) as sent:
            ranking_found = found.nearest_to(point(points(1, 7)[0]), 24, kept=SIZE, indexed=SIZE)
        assert ranking_found.plans[0].path == Path.IVFFLAT
        (statement,) = [entry["sql"] for entry in sent if "subvector" in entry["sql"]]
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {statement}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert f"Index Scan using {ivfflat.name_of(collection.version.pk)}" in plan


def test_it_finds_what_an_exact_scan_finds(collection: Collection) -> None:
    found = Embedding.objects.for_version(collection.version)
    shares = []
    for fc1 in points(60, seed=2):
        ranked = found.nearest_to(point(fc1), 20, kept=SIZE, indexed=SIZE)
        assert ranked.plans[0].path == Path.IVFFLAT
        shares.append(len({*ranked.ids} & {*collection.exact(fc1)[:20]}) / 20)
    assert np.mean(shares) >= 0.99


def test_equal_distances_are_ordered_by_id_with_the_index_in_use(collection: Collection) -> None:
    found = Embedding.objects.for_version(collection.version)
    for row in range(0, SIZE, 250):
        ranked = found.nearest_to(point(collection.fc1[row]), 20, kept=SIZE, indexed=SIZE)
        assert ranked.plans[0].path == Path.IVFFLAT
        assert ranked.ids[:2] == [collection.ids[row], collection.ids[row + 1]]
        assert ranked.ids == collection.exact(collection.fc1[row])[:20]


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        SearchOptions(scope=Scope.ALL, collapse=Collapse.NONE, organ="chest"),
        SearchOptions(scope=Scope.PREDICTED, collapse=Collapse.NONE),
        SearchOptions(scope=Scope.ALL, collapse=Collapse.NONE, dataset="test", modality="CT"),
    ],
    ids=["all", "one organ", "two organs", "data set and modality"],
)
def test_filtered_pages_are_full_and_right(collection: Collection, options: SearchOptions) -> None:
    names = np.array(ORGANS)[np.arange(SIZE) % 3]
    wanted = [options.organ] if options.organ else ORGANS[: 2 if options.scope == Scope.PREDICTED else 3]
    recall = []
    for fc1 in points(10, seed=3):
        query = ask(collection, fc1)
        page = search(query, options)
        assert page.plans[0].path == Path.IVFFLAT
        assert (len(page.hits), page.has_next) == (24, True)
        assert {hit.organ for hit in page.hits} <= {*wanted}
        expected = collection.exact(fc1, np.isin(names, wanted))[:24]
        images = {*Embedding.objects.filter(pk__in=expected).values_list("image", flat=True)}
        recall.append(len(images & {hit.image_id for hit in page.hits}) / 24)
    assert np.mean(recall) >= 0.99


def test_a_filter_that_keeps_little_of_what_is_near_is_answered_in_full(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the filter keeps may lie anywhere: where the index gives up, a scan answers."""
    monkeypatch.setattr(ranking, "PROBES", (1, 1))
    fc1 = collection.fc1[5]
    far = collection.exact(fc1)[-1_000:]
    found = Embedding.objects.for_version(collection.version).filter(pk__in=far)
    ranked = found.nearest_to(point(fc1), 24, kept=len(far), indexed=SIZE)
    assert ranked.plans[0].path == Path.EXACT
    assert ranked.ids == far[:24]


@pytest.mark.parametrize("scope", [Scope.ALL, Scope.BLENDED])
@pytest.mark.parametrize("evicted", [False, True], ids=["remembered", "evicted"])
def test_pages_hold_still_while_images_come_in(collection: Collection, scope: Scope, evicted: bool) -> None:
    """Also beyond what the index is asked for, where a scan continues what the index began."""
    fc1 = points(1, seed=4)[0]
    query = ask(collection, fc1)
    options = SearchOptions(scope=scope, collapse=Collapse.NONE)
    before = [hit.image_id for hit in search(query, options, page_size=240).hits]
    cache.clear()
    shown: list[int] = []
    for number in range(1, 11):
        page = search(query, options, page=number)
        shown += [hit.image_id for hit in page.hits]
        assert (page.total, page.newer) == (SIZE, 25 * (number - 1))
        # The new ones would all come first.
        add_images(
            collection.version,
            np.repeat(fc1[np.newaxis], 25, axis=0) + np.eye(25, 4096, 700, dtype=np.float32) / 64,
        )
        if evicted:
            cache.clear()
    assert shown == before
    again = [hit.image_id for n in range(1, 11) for hit in search(query, options, page=n).hits]
    assert again == shown
    query.see_newest()
    newest = search(query, options)
    assert (newest.total, newest.newer) == (SIZE + 250, 0)
    assert not {hit.image_id for hit in newest.hits} & {*shown}


def test_what_is_remembered_goes_on_where_a_wider_ranking_differs(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that overlooks the nearest image must not push what was shown onto the next page."""
    fc1 = points(1, seed=5)[0]
    exact = collection.exact(fc1)
    from_index = ranking.EmbeddingQuerySet._from_index

    def overlook(self: Any, asked: Point, wanted: int, *sizes: int) -> Ranking:
        found = from_index(self, asked, wanted + 1, *sizes)
        assert found
        assert found.ids[0] == exact[0]
        return Ranking(found.ids[1:], found.distances[1:], found.plans)

    monkeypatch.setattr(ranking.EmbeddingQuerySet, "_from_index", overlook)
    query = ask(collection, fc1)
    shown = [hit.image_id for n in range(1, 11) for hit in search(query, PLAIN, page=n, page_size=30).hits]
    assert len(shown) == len({*shown}) == 300
    assert shown[:150] == [collection.image_of(pk) for pk in exact[1:151]]
    assert collection.image_of(exact[0]) in shown  # the scan of the later pages finds it


@pytest.mark.parametrize("collapse", Collapse)
def test_a_deleted_image_leaves_no_hole(collection: Collection, collapse: Collapse) -> None:
    query = ask(collection, points(1, seed=6)[0])
    options = SearchOptions(scope=Scope.ALL, collapse=collapse)
    first, second = (search(query, options, page=number) for number in (1, 2))
    shown = [hit.image_id for hit in first.hits + second.hits]
    Image.objects.get(pk=shown[3]).delete()
    page = search(query, options)
    assert [hit.image_id for hit in page.hits] == shown[:3] + shown[4:25]
    assert [hit.rank for hit in page.hits] == list(range(1, 25))


def test_a_relabelled_image_leaves_a_remembered_ranking(collection: Collection) -> None:
    """What is shown within an organ is of that organ, also on the second look."""
    query = ask(collection, points(1, seed=6)[0])
    options = SearchOptions(organ="chest", collapse=Collapse.NONE)
    shown = [hit.image_id for hit in search(query, options, page_size=30).hits]
    Image.objects.filter(pk=shown[0]).update(organ=OrganClass.objects.get(name="brain"))
    assert [hit.image_id for hit in search(query, options).hits] == shown[1:25]


def test_the_index_of_one_version_is_built_and_dropped_alone(collection: Collection) -> None:
    assert ivfflat.is_built(collection.version.pk)
    assert not ivfflat.is_built(collection.version.pk + 1)
    assert ivfflat.builds_under_way() == []
