"""The probe tells how much of what an exact scan finds a search finds, and how fast."""

import time
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from django.test import Client
from django.utils import timezone

from ml.locks import locked
from ml.models import ModelVersion
from search import ivfflat, probing, ranking, tasks
from search.models import Embedding, Query, RecallProbe, VersionIndex
from tests.factories import make_embedding, make_image, make_model_version

ROWS = 60


def describe(version: ModelVersion, rows: int = ROWS, *, is_projected: bool = True) -> None:
    """Images at random; where they are not projected, the index orders by something else altogether."""
    rng = np.random.default_rng(version.pk)
    for _ in range(rows):
        fc1 = np.zeros(4096, np.float32)
        fc1[:256] = rng.normal(size=256)
        projection = fc1[:512] if is_projected else rng.normal(size=512).astype(np.float32)
        make_embedding(make_image(), version, fc1, projection)


def make_probe(version: ModelVersion, recall: float, queries: int = 50, hours_ago: float = 0) -> RecallProbe:
    probe = RecallProbe.objects.create(
        model_version=version,
        queries=queries,
        images=100,
        recall_at_20=recall,
        median_ms=4.0,
        p95_ms=9.0,
        exact_median_ms=250.0,
    )
    RecallProbe.objects.filter(pk=probe.pk).update(created_at=timezone.now() - timedelta(hours=hours_ago))
    return probe


@pytest.mark.django_db(transaction=True)
def test_a_small_collection_is_scanned_and_all_is_found(model_version: ModelVersion) -> None:
    describe(model_version)
    probe = probing.probe_active_version()
    assert probe is not None
    assert (probe.recall_at_20, probe.images) == (1.0, ROWS)
    assert 20 < probe.queries <= probing.QUERIES  # some are drawn twice, and count once
    assert 0 < probe.median_ms <= probe.p95_ms
    assert probe.exact_median_ms > 0
    assert probing.recall_of(model_version) == 1.0


@pytest.mark.django_db(transaction=True)
def test_a_good_index_finds_nearly_all(
    model_version: ModelVersion, few_are_many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(model_version)
    ivfflat.build(model_version, ROWS)
    VersionIndex.objects.create(model_version=model_version, has_ivfflat=True)
    monkeypatch.setattr(ranking, "INDEX_CANDIDATES", (2, 20, 1_000))
    probe = probing.probe(model_version)
    assert probe is not None
    assert probe.recall_at_20 > 0.98


@pytest.mark.django_db(transaction=True)
def test_a_bad_index_is_seen_to_be_bad(
    model_version: ModelVersion, few_are_many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(model_version, is_projected=False)
    ivfflat.build(model_version, ROWS)
    VersionIndex.objects.create(model_version=model_version, has_ivfflat=True)
    monkeypatch.setattr(ranking, "INDEX_CANDIDATES", (1, 20, 20))
    probe = probing.probe(model_version)
    assert probe is not None
    # Of 59 others, 20 are taken nearly at random.
    assert 0.2 < probe.recall_at_20 < 0.6


@pytest.mark.django_db(transaction=True)
def test_images_of_the_same_patient_are_not_what_is_looked_for(model_version: ModelVersion) -> None:
    for _ in range(3):
        make_embedding(make_image(group_key="one"), model_version, np.ones(4096, np.float32))
    assert probing.probe_active_version() is None  # there is nothing else
    make_embedding(make_image(), model_version, np.zeros(4096, np.float32))
    looks = list(probing.looks_at(model_version, 4, time.monotonic() + 60))
    assert {look.nearest for look in looks} <= {1, 3}
    assert all(look.found == look.nearest for look in looks)


@pytest.mark.django_db(transaction=True)
def test_a_probe_ends_in_time(model_version: ModelVersion) -> None:
    describe(model_version)
    assert probing.probe(model_version, most_seconds=0) is None
    assert not RecallProbe.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_one_worker_probes_at_a_time(model_version: ModelVersion) -> None:
    import threading

    from django.db import connection

    describe(model_version, 3)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(probing.PROBING):
            held.set()
            over.wait(60)
        connection.close()

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(60)
    assert probing.probe(model_version) is None
    over.set()
    other.join()
    assert probing.probe(model_version) is not None


@pytest.mark.django_db(transaction=True)
def test_nothing_is_probed_while_nobody_searches_and_nothing_comes_in(model_version: ModelVersion) -> None:
    describe(model_version, 3)
    tasks.probe_recall()
    tasks.probe_recall()
    assert RecallProbe.objects.count() == 1
    Query.objects.create(model_version=model_version)
    tasks.probe_recall()
    assert RecallProbe.objects.count() == 2
    make_embedding(make_image(), model_version, np.ones(4096, np.float32))
    tasks.probe_recall()
    tasks.probe_recall()
    assert RecallProbe.objects.count() == 3


@pytest.mark.django_db
def test_without_a_version_or_images_nothing_is_probed(db: None) -> None:
    assert probing.probe_active_version() is None
    make_model_version()
    assert probing.probe_active_version() is None
    assert not Embedding.objects.exists()


def test_what_is_told_rests_on_enough_queries(model_version: ModelVersion) -> None:
    assert probing.recall_of(model_version) is None
    make_probe(model_version, 0.5, queries=50, hours_ago=3)
    make_probe(model_version, 1.0, queries=30, hours_ago=2)
    make_probe(model_version, 0.9, queries=20, hours_ago=1)
    make_probe(make_model_version("retired"), 0.1)
    assert probing.recall_of(model_version) == pytest.approx(0.96)


def test_probes_are_shown_as_curves(
    model_version: ModelVersion, client_of: Callable[[str | None], Client]
) -> None:
    client = client_of("admin")
    address = "/admin/search/recallprobe/"
    assert "Nothing was measured yet" in client.get(address).content.decode()
    make_probe(model_version, 0.991, hours_ago=2)
    assert "after the second probe" in client.get(address).content.decode()
    make_probe(model_version, 0.95, hours_ago=1)
    make_probe(model_version, 0.875)
    page = client.get(address).content.decode()
    assert page.count("<svg role=") == 2
    assert "found, 87.5%" in page
    assert "warning below, 98%" in page
    assert "95.0%" in page
    # Oldest on the left; the lower edge is the lowest, as there is one below 90 %.
    assert '"0.0,8.6 160.0,48.0 320.0,120.0"' in page
    listed = client.get(address, {"model_version__id__exact": model_version.pk})
    assert listed.context_data["charted_version"] == model_version  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("role", "status"), [("admin", 200), ("curator", 403), ("clinician", 302), ("nobody", 302), (None, 302)]
)
@pytest.mark.parametrize("name", ["recallprobe", "versionindex"])
def test_probes_and_indexes_are_for_admins(
    role: str | None, status: int, name: str, client_of: Callable[[str | None], Client]
) -> None:
    assert client_of(role).get(f"/admin/search/{name}/").status_code == status
