"""Indexes are built, rebuilt and dropped beside searches and imports; one that failed is built again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction
from django.test import Client

from ml.locks import locked
from ml.models import ModelVersion, VersionStatus
from search import indexing, ivfflat, tasks
from search.models import Embedding, Query, QueryStatus, VersionIndex
from search.ranking import Point, Ranking
from tests.factories import make_embedding, make_image, make_model_version
from tests.processes import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
ROWS = 12


@pytest.fixture
def described(model_version: ModelVersion, few_are_many: None) -> ModelVersion:
    describe(model_version)
    return model_version


def describe(version: ModelVersion) -> None:
    rng = np.random.default_rng(version.pk)
    for _ in range(ROWS):
        make_embedding(make_image(), version, np.maximum(rng.normal(size=4096), 0).astype(np.float32))


@contextmanager
def unfinished_import(version: ModelVersion) -> Iterator[Callable[[], None]]:
    """Another session has written an embedding and commits when called: until then a build waits for it."""
    written, over = threading.Event(), threading.Event()

    def write() -> None:
        with transaction.atomic():
            make_embedding(make_image(), version, np.ones(4096, np.float32))
            written.set()
            over.wait(60)
        connection.close()

    thread = in_a_session_of_its_own(write)
    assert written.wait(60)

    def commit() -> None:
        over.set()
        thread.join()

    try:
        yield commit
    finally:
        commit()


def in_a_session_of_its_own(work: Callable[[], Any]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def search(version: ModelVersion) -> Ranking:
    point = Point(np.zeros(4096, np.float32), np.zeros(512, np.float32))
    found = Embedding.objects.for_version(version)
    return found.nearest_to(point, 2, kept=found.count(), indexed=found.count())


def relations(pattern: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relname ~ %s ORDER BY relname", [pattern])
        return [name for (name,) in cursor.fetchall()]


def impatient(setting: str) -> None:
    """Nothing may wait long in this session; "0": as long as it takes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, false)", [setting])


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_searches_and_imports_go_on_while_an_index_is_built(
    described: ModelVersion, is_rebuilt: bool, client_of: Callable[[str | None], Client]
) -> None:
    work = ivfflat.build
    if is_rebuilt:
        ivfflat.build(described, ROWS)
        work = ivfflat.rebuild
    client = client_of("clinician")
    with unfinished_import(described) as commit:
        building = in_a_session_of_its_own(lambda: work(described, ROWS))
        wait_until(ivfflat.builds_under_way, "the build")
        impatient("5s")
        assert [build.version_id for build in ivfflat.builds_under_way()] == [described.pk]
        assert len(search(described).ids) == 2
        make_embedding(make_image(), described, np.full(4096, 2, np.float32))
        page = client.get("/status/").content.decode()
        assert f"Building the index of {described}: 0 %" in page
        builds = client.get("/api/v1/status/").json()["index_builds"]
        assert builds == [{"model_version": str(described), "percent": 0}]
        impatient("0")
        assert building.is_alive()
        assert ivfflat.is_built(described.pk) == is_rebuilt  # the earlier one is there until the end
        commit()
        building.join(60)
    assert ivfflat.is_built(described.pk)
    assert ivfflat.builds_under_way() == []
    assert relations("^embedding_ivfflat") == [ivfflat.name_of(described.pk)]
    assert Embedding.objects.count() == ROWS + 2


def test_index_that_could_not_be_built_is_told_and_built_again(
    described: ModelVersion, client_of: Callable[[str | None], Client]
) -> None:
    with unfinished_import(described):
        impatient("500ms")
        with pytest.raises(OperationalError):
            indexing.prepare_versions()
        impatient("0")
    assert relations("^embedding_ivfflat") == [ivfflat.name_of(described.pk)]  # what is left of it
    assert not ivfflat.is_built(described.pk)
    index = VersionIndex.objects.get()
    assert (index.has_ivfflat, index.error) == (False, indexing.NOT_BUILT)
    warning = f"{described}: {indexing.NOT_BUILT}"
    client = client_of("clinician")
    assert warning in client.get("/status/").content.decode()
    assert client.get("/api/v1/status/").json()["warnings"] == [warning]

    assert indexing.needs_preparing(described)
    indexing.prepare_versions()
    assert ivfflat.is_built(described.pk)
    index.refresh_from_db()
    assert (index.has_ivfflat, index.error) == (True, "")
    assert not indexing.needs_preparing(described)
    assert client.get("/api/v1/status/").json()["warnings"] == []


def test_index_that_is_lost_is_built_again(described: ModelVersion) -> None:
    indexing.prepare_versions()
    ivfflat.drop(described.pk)
    assert indexing.needs_preparing(described)
    indexing.prepare_versions()
    assert ivfflat.is_built(described.pk)


def test_what_a_failed_rebuilding_left_is_taken_away(described: ModelVersion) -> None:
    indexing.prepare_versions()
    with unfinished_import(described):
        impatient("500ms")
        with pytest.raises(OperationalError):
            indexing.rebuild(described)
        impatient("0")
    assert ivfflat.is_built(described.pk)  # the earlier one
    assert VersionIndex.objects.get().error == indexing.NOT_BUILT
    assert indexing.rebuild(described)
    assert relations("^embedding_ivfflat") == [ivfflat.name_of(described.pk)]
    assert VersionIndex.objects.get().error == ""


def test_clusters_fit_the_memory_and_the_collection(settings: Any) -> None:
    settings.INDEX_MEMORY_MB = 2048
    assert [ivfflat.clusters_for(rows) for rows in (0, 1, 20_000, 100_000)] == [1, 3, 453, 1012]
    for rows in (10**6, 10**8, 10**12):
        clusters = ivfflat.clusters_for(rows)
        assert ivfflat.memory_for(clusters) <= 2048 * 2**20 < ivfflat.memory_for(round(clusters / 0.9))
    settings.INDEX_MEMORY_MB = 10**9
    assert ivfflat.clusters_for(10**12) == ivfflat.MOST_CLUSTERS


def test_an_outgrown_index_is_built_anew(described: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    indexing.prepare_versions()
    assert not ivfflat.is_outgrown(described.pk, ROWS)
    assert not indexing.needs_preparing(described)
    monkeypatch.setattr(ivfflat, "CLUSTERS", 3.2 * ivfflat.GROWN * 1.1)
    assert ivfflat.is_outgrown(described.pk, ROWS)
    assert indexing.needs_preparing(described)
    indexing.prepare_versions()
    assert ivfflat.is_built(described.pk)
    assert not ivfflat.is_outgrown(described.pk, ROWS)
    assert relations("^embedding_ivfflat") == [ivfflat.name_of(described.pk)]


def test_two_workers_do_not_build_at_once(described: ModelVersion) -> None:
    indexing.prepare_versions()
    held, over = threading.Event(), threading.Event()

    def prepare() -> None:
        with locked(indexing.PREPARING):
            held.set()
            over.wait(60)

    other = in_a_session_of_its_own(prepare)
    assert held.wait(60)
    assert not indexing.rebuild(described)
    over.set()
    other.join()
    assert indexing.rebuild(described)


def test_each_version_has_an_index_of_its_own(described: ModelVersion) -> None:
    indexing.prepare_versions()
    new = make_model_version(VersionStatus.PREPARING, seed=1)
    while indexing.index_next_batch():
        pass
    indexing.prepare_versions()
    assert ModelVersion.objects.active() == new
    assert ivfflat.is_built(described.pk)
    assert ivfflat.is_built(new.pk)
    assert [Embedding.objects.for_version(v).count() for v in (described, new)] == [ROWS, ROWS]

    assert indexing.drop_embeddings(described) == ROWS
    assert relations("^embedding_ivfflat") == [ivfflat.name_of(new.pk)]
    assert Embedding.objects.for_version(described).count() == 0
    assert Embedding.objects.for_version(new).count() == ROWS
    assert set(VersionIndex.objects.values_list("model_version", flat=True)) == {new.pk}
    assert ModelVersion.objects.filter(pk=described.pk).exists()


@pytest.mark.parametrize("status", [VersionStatus.ACTIVE, VersionStatus.PREPARING])
def test_version_in_service_keeps_its_embeddings(model_version: ModelVersion, status: str) -> None:
    version = model_version if status == VersionStatus.ACTIVE else make_model_version(status)
    make_embedding(make_image(), version, np.ones(4096, np.float32))
    with pytest.raises(indexing.InServiceError, match="keeps its embeddings"):
        indexing.drop_embeddings(version)
    with pytest.raises(CommandError, match="keeps its embeddings"):
        call_command("drop_embeddings", str(version), "--yes")
    tasks.drop_embeddings(version.pk)  # says so in the log
    assert Embedding.objects.count() == 1


def test_command_asks_before_it_drops(
    model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    retired = make_model_version(VersionStatus.RETIRED)
    make_embedding(make_image(), retired, np.ones(4096, np.float32))
    monkeypatch.setattr("builtins.input", lambda question: "n")
    with pytest.raises(CommandError, match="Nothing was dropped"):
        call_command("drop_embeddings", f"v{retired.pk}")
    assert Embedding.objects.count() == 1
    monkeypatch.setattr("builtins.input", lambda question: "y")
    call_command("drop_embeddings", f"v{retired.pk}")
    assert f"1 embeddings of {retired} were dropped." in capsys.readouterr().out
    assert Embedding.objects.count() == 0
    with pytest.raises(CommandError, match="There is no model version v0"):
        call_command("drop_embeddings", "v0", "--yes")


def test_searches_of_a_dropped_version_say_so(
    model_version: ModelVersion, client_of: Callable[[str | None], Client]
) -> None:
    retired = make_model_version(VersionStatus.RETIRED)
    embedding = make_embedding(make_image(), retired, np.ones(4096, np.float32))
    query = Query.objects.create(
        status=QueryStatus.ANSWERED,
        model_version=retired,
        fc1=np.ones(4096),
        projection=np.ones(512),
        organ_probabilities=[["brain", 1.0]],
        newest_embedding=embedding.pk,
    )
    assert not query.has_lost_embeddings()
    indexing.drop_embeddings(retired)
    assert query.has_lost_embeddings()
    page = client_of("clinician").get(f"/queries/{query.pk}/").content.decode()
    assert "These results are no longer kept" in page
    assert client_of("clinician").get(f"/api/v1/queries/{query.pk}/results/").status_code == 422
    # Described anew, the version finds what there is now, not what this search was shown.
    make_embedding(make_image(), retired, np.ones(4096, np.float32))
    assert query.has_lost_embeddings()


def test_deleting_a_version_drops_its_index(described: ModelVersion) -> None:
    indexing.prepare_versions()
    number = described.pk
    described.delete()
    assert relations("^embedding_ivfflat") == [ivfflat.name_of(number)]
    tasks.drop_embeddings(number)  # rung for when the deletion is committed
    assert relations("^embedding_ivfflat") == []
