"""What the status page and the API say of the search, and to whom."""

from collections.abc import Callable

import pytest
from django.test import Client

from ml.models import ModelVersion, VersionStatus
from search import activity
from search.ivfflat import Build
from search.models import VersionIndex
from tests.factories import make_embedding, make_image, make_model_version
from tests.search.test_probing import make_probe

ClientOf = Callable[[str | None], Client]


def page_for(client: Client, path: str = "/status/") -> str:
    return client.get(path).content.decode()


def test_low_recall_is_told_to_everybody_and_in_numbers_to_admins(
    model_version: ModelVersion, client_of: ClientOf
) -> None:
    make_probe(model_version, 0.93)
    for path in ("/status/", "/"):
        clinician, admin = page_for(client_of("clinician"), path), page_for(client_of("admin"), path)
        assert activity.LOW_RECALL in clinician
        assert "93.0" not in clinician
        assert "/admin/" not in clinician
        assert activity.LOW_RECALL in admin
        assert "It finds 93.0% of the 20 nearest." in admin
    told = client_of("integration").get("/api/v1/status/").json()
    assert (told["recall_at_20"], told["warnings"]) == (0.93, [activity.LOW_RECALL])


def test_enough_recall_is_no_warning(model_version: ModelVersion, client_of: ClientOf) -> None:
    make_probe(model_version, 0.98)
    clinician, admin = page_for(client_of("clinician")), page_for(client_of("admin"))
    assert 'role="alert"' not in clinician + admin
    assert "98.0" not in clinician
    assert "Searches find 98.0% of the 20 nearest images" in admin
    told = client_of("integration").get("/api/v1/status/").json()
    assert (told["recall_at_20"], told["warnings"]) == (0.98, [])


def test_before_the_first_probe_nothing_is_told(model_version: ModelVersion, client_of: ClientOf) -> None:
    assert 'role="alert"' not in page_for(client_of("admin"))
    told = client_of("clinician").get("/api/v1/status/").json()
    assert (told["recall_at_20"], told["warnings"], told["index_builds"]) == (None, [], [])


def test_probes_of_other_versions_do_not_count(model_version: ModelVersion, client_of: ClientOf) -> None:
    make_probe(make_model_version(VersionStatus.RETIRED), 0.1)
    assert 'role="alert"' not in page_for(client_of("clinician"))


@pytest.mark.parametrize(
    ("phase", "rows", "percent"),
    [
        ("waiting for writers before build", 0, 0),
        ("building index: loading tuples", 1, 50),
        ("building index: loading tuples", 5, 100),  # more came in since they were counted
        ("index validation: scanning table", 0, 100),
    ],
)
def test_building_is_told_in_per_cent(
    model_version: ModelVersion,
    client_of: ClientOf,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    rows: int,
    percent: int,
) -> None:
    import numpy as np

    for _ in range(2):
        make_embedding(make_image(), model_version, np.ones(4096, np.float32))
    monkeypatch.setattr(activity, "builds_under_way", lambda: [Build(model_version.pk, phase, rows)])
    page = page_for(client_of("clinician"))
    assert f"Building the index of {model_version}: {percent} %" in page
    assert 'hx-trigger="every 2s"' in page
    told = client_of("clinician").get("/api/v1/status/").json()
    assert told["index_builds"] == [{"model_version": str(model_version), "percent": percent}]
    assert told["is_busy"]


def test_a_version_about_to_serve_is_named(model_version: ModelVersion, client_of: ClientOf) -> None:
    new = make_model_version(VersionStatus.PREPARING)
    assert f"{new} is about to go into service." in page_for(client_of("clinician"))
    make_image()  # that it has not seen yet
    page = page_for(client_of("clinician"))
    assert f"Indexing with {new}" in page
    assert "is about to go into service" not in page


def test_a_failed_build_is_told(model_version: ModelVersion, client_of: ClientOf) -> None:
    VersionIndex.objects.create(model_version=model_version, error="The index could not be built.")
    assert f"{model_version}: The index could not be built." in page_for(client_of("clinician"))


@pytest.mark.parametrize(
    ("role", "page", "api"),
    [("clinician", 200, 200), ("admin", 200, 200), ("nobody", 403, 403), (None, 302, 401)],
)
def test_status_needs_the_role(role: str | None, page: int, api: int, client_of: ClientOf) -> None:
    client = client_of(role)
    assert client.get("/status/").status_code == page
    assert client.get("/api/v1/status/").status_code == api
