"""Searches are read from a real streaming replica, and from the primary wherever that would not do."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from ingest.models import Image
from ml.models import ModelVersion, VersionStatus
from search import replicas
from search.models import Query, QueryStatus
from search.options import Collapse, Scope, SearchOptions
from search.retrieval import ResultPage, search
from tests import factories
from tests.processes import wait_until
from tests.standby import ALIAS, Standby

EVERYTHING = SearchOptions(scope=Scope.ALL, collapse=Collapse.NONE)
both = pytest.mark.django_db(transaction=True, databases=[DEFAULT_DB_ALIAS, ALIAS])


@pytest.fixture(scope="module")
def server(django_db_setup: None, django_db_blocker: Any) -> Iterator[Standby]:
    with django_db_blocker.unblock():
        standby = Standby()
        try:
            standby.start()
            connections.settings[ALIAS] = standby.settings()
            yield standby
        finally:
            connections[ALIAS].close()
            del connections[ALIAS]
            connections.settings.pop(ALIAS, None)
            standby.remove()


@pytest.fixture
def standby(server: Standby, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standby]:
    """Running and up to date, and nothing is remembered of how it stood."""
    monkeypatch.setattr(replicas, "_known", {})
    yield server
    if server.is_running:
        server.ask("SELECT pg_wal_replay_resume()")
    else:
        connections[ALIAS].close()
        server.start()


@pytest.fixture
def model_version(db: None) -> ModelVersion:
    """One without a network: nothing is described here."""
    return ModelVersion.objects.create(recipe="default", checkpoint="none", status=VersionStatus.ACTIVE)


@pytest.fixture
def query(model_version: ModelVersion) -> Query:
    """An answered query at the origin of FC1, among six images at distance 1 to 6."""
    for number in range(1, 7):
        add_image(model_version, number)
    query = Query(
        status=QueryStatus.ANSWERED,
        model_version=model_version,
        fc1=np.zeros(4096, np.float32),
        projection=np.zeros(512, np.float32),
        organ_probabilities=[["brain", 0.75], ["chest", 0.25]],
    )
    query.see_newest()
    query.save()
    return query


def add_image(version: ModelVersion, distance: int) -> Image:
    image = factories.make_image(organ="brain")
    fc1 = np.zeros(4096, np.float32)
    fc1[0] = distance
    factories.make_embedding(image, version, fc1)
    return image


def wait_for(query: Query) -> None:
    wait_until(lambda: replicas.has_query(ALIAS, query), "the replica")


def statements(ask: Callable[[], ResultPage]) -> tuple[list[float], list[str], list[str]]:
    """Distances found, what the primary was asked, what the replica was asked."""
    with (
        CaptureQueriesContext(connection) as primary,
        CaptureQueriesContext(connections[ALIAS]) as replica,
    ):
        found = [hit.distance for hit in ask().hits]
    return found, *[[one["sql"] for one in asked.captured_queries] for asked in (primary, replica)]


@both
def test_search_is_read_from_the_replica(standby: Standby, query: Query) -> None:
    wait_for(query)
    assert standby.ask("SELECT pg_is_in_recovery()")
    found, primary, replica = statements(lambda: search(query, EVERYTHING))
    assert found == [1, 2, 3, 4, 5, 6]
    assert primary == ["SELECT pg_current_wal_lsn()"]
    assert any("fc1" in sql for sql in replica)
    assert len(replica) > 5


@both
def test_search_that_the_replica_lacks_something_for_is_read_from_the_primary(
    standby: Standby, query: Query, model_version: ModelVersion
) -> None:
    wait_for(query)
    standby.ask("SELECT pg_wal_replay_pause()")
    add_image(model_version, 7)
    query.see_newest()
    query.save()
    found, primary, replica = statements(lambda: search(query, EVERYTHING))
    assert found == [1, 2, 3, 4, 5, 6, 7]
    assert any("fc1" in sql for sql in primary)
    assert not any("fc1" in sql for sql in replica)
    standby.ask("SELECT pg_wal_replay_resume()")
    wait_for(query)
    found, _, replica = statements(lambda: search(query, EVERYTHING))
    assert found == [1, 2, 3, 4, 5, 6, 7]
    assert any("fc1" in sql for sql in replica)


@both
def test_search_does_not_read_from_a_replica_far_behind(
    standby: Standby, query: Query, model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for(query)
    standby.ask("SELECT pg_wal_replay_pause()")
    image = add_image(model_version, 7)
    monkeypatch.setattr(replicas, "MOST_SECONDS_BEHIND", 0.0)
    _, primary, replica = statements(lambda: search(query, EVERYTHING))
    assert any("fc1" in sql for sql in primary)
    assert len(replica) == 1  # how it stands
    image.delete()


@both
def test_search_outlives_a_replica_killed_while_it_is_read_from(standby: Standby, query: Query) -> None:
    wait_for(query)
    asked: list[str] = []

    def read() -> str:
        asked.append(replicas.read_from.get())
        standby.kill()
        return Query.objects.get(pk=query.pk).status

    assert replicas.read_beside(query, read) == QueryStatus.ANSWERED
    assert asked == [ALIAS, DEFAULT_DB_ALIAS]
    assert [hit.distance for hit in search(query, EVERYTHING).hits] == [1, 2, 3, 4, 5, 6]


@both
def test_no_search_waits_for_a_replica_just_found_away(standby: Standby, query: Query) -> None:
    standby.kill()
    connections[ALIAS].close()
    assert len(search(query, EVERYTHING).hits) == 6
    attempts: list[str] = []
    connections[ALIAS].connect, connect = lambda: attempts.append("again"), connections[ALIAS].connect  # type: ignore[method-assign]
    try:
        assert len(search(query, EVERYTHING).hits) == 6
    finally:
        connections[ALIAS].connect = connect  # type: ignore[method-assign]
    assert attempts == []


@both
def test_those_who_look_after_it_see_how_far_a_replica_is_behind(
    standby: Standby, query: Query, client_of: Callable[[str | None], Client]
) -> None:
    wait_for(query)
    wait_until(lambda: replicas.ask(ALIAS).bytes_behind == 0, "the replica")
    admin = client_of("admin")
    wait_until(lambda: replicas.ask(ALIAS).bytes_behind == 0, "the replica")
    page = admin.get("/status/").content.decode()
    assert "Read replicas" in page
    assert f"{standby.folder}" in page
    assert "read from it" in page

    standby.ask("SELECT pg_wal_replay_pause()")
    query.save()
    replicas._known.clear()
    (standing,) = admin.get("/api/v1/status/").json()["replicas"]
    assert standing["bytes_behind"] > 0
    assert standing["seconds_behind"] > 0

    standby.kill()
    replicas._known.clear()
    assert "not reachable" in admin.get("/status/").content.decode()
    assert admin.get("/api/v1/status/").json()["replicas"][0] == {
        "name": f"{standby.folder}:5433",
        "is_reachable": False,
        "is_near": False,
        "bytes_behind": None,
        "seconds_behind": None,
    }


@both
@pytest.mark.parametrize("role", ["clinician", "curator"])
def test_others_do_not_see_replicas(
    standby: Standby, client_of: Callable[[str | None], Client], role: str
) -> None:
    client = client_of(role)
    assert "Read replicas" not in client.get("/status/").content.decode()
    assert client.get("/api/v1/status/").json()["replicas"] == []
