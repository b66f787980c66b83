"""Administrators have indexes built anew and drop the embeddings of versions that serve no more."""

from collections.abc import Callable

import numpy as np
import pytest
from django.db import connection
from django.test import Client

from ml.models import ModelVersion, VersionStatus
from search import ivfflat, tasks
from search.models import Embedding, VersionIndex
from tests.factories import make_embedding, make_image, make_model_version

ClientOf = Callable[[str | None], Client]
LIST = "/admin/search/versionindex/"


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What the workers are told."""
    told: list[tuple[str, int]] = []
    monkeypatch.setattr("search.index_admin.ring", lambda name, number: told.append((name, number)))
    return told


def index_of(version: ModelVersion, has_ivfflat: bool = True) -> VersionIndex:
    return VersionIndex.objects.create(model_version=version, images=7, has_ivfflat=has_ivfflat)


def act(client: Client, action: str, *indexes: VersionIndex, **more: str) -> str:
    data = {"action": action, "_selected_action": [index.pk for index in indexes], **more}
    return client.post(LIST, data, follow=True).content.decode()


def test_index_is_rebuilt_in_the_background(
    model_version: ModelVersion, client_of: ClientOf, rung: list[tuple[str, int]]
) -> None:
    page = act(client_of("admin"), "rebuild_selected", index_of(model_version))
    assert f"The index of {model_version} is built anew in the background" in page
    assert rung == [("search.rebuild_index", model_version.pk)]


def test_what_is_scanned_needs_no_rebuilding(
    model_version: ModelVersion, client_of: ClientOf, rung: list[tuple[str, int]]
) -> None:
    page = act(client_of("admin"), "rebuild_selected", index_of(model_version, has_ivfflat=False))
    assert f"{model_version} has no ivfflat index" in page.lower()  # the admin begins with a capital
    assert rung == []


def test_embeddings_are_dropped_after_asking(
    model_version: ModelVersion, client_of: ClientOf, rung: list[tuple[str, int]]
) -> None:
    retired = make_model_version(VersionStatus.RETIRED)
    index = index_of(retired)
    client = client_of("admin")
    page = act(client, "drop_selected", index)
    assert "Drop embeddings?" in page
    assert f"{retired}, 7 images" in page
    assert rung == []
    page = act(client, "drop_selected", index, confirmed="yes")
    assert f"The embeddings of {retired} are being dropped" in page
    assert rung == [("search.drop_embeddings", retired.pk)]


@pytest.mark.parametrize("status", [VersionStatus.ACTIVE, VersionStatus.PREPARING])
@pytest.mark.django_db
def test_embeddings_in_service_are_refused(
    status: str, client_of: ClientOf, rung: list[tuple[str, int]]
) -> None:
    version = make_model_version(status)
    page = act(client_of("admin"), "drop_selected", index_of(version), confirmed="yes")
    assert f"{version} is in service, or about to be, and keeps its embeddings." in page.lower()
    assert rung == []


@pytest.mark.parametrize("role", ["curator", "clinician", "nobody", None])
@pytest.mark.parametrize("action", ["rebuild_selected", "drop_selected"])
def test_others_may_not(
    role: str | None, action: str, client_of: ClientOf, rung: list[tuple[str, int]]
) -> None:
    index = index_of(make_model_version(VersionStatus.RETIRED))
    act(client_of(role), action, index, confirmed="yes")
    assert rung == []


def test_list_tells_what_there_is(model_version: ModelVersion, client_of: ClientOf) -> None:
    index = index_of(model_version)
    client = client_of("admin")
    page = client.get(LIST).content.decode()
    assert "none" in page
    assert "active" in page
    assert client.get(f"{LIST}{index.pk}/change/").status_code == 200


def test_tasks_do_what_was_asked_for(few_are_many: None, model_version: ModelVersion) -> None:
    for number in range(4):
        make_embedding(make_image(), model_version, np.full(4096, number, np.float32))
    index_of(model_version)
    ivfflat.build(model_version, 4)
    tasks.rebuild_index(model_version.pk)
    assert ivfflat.is_built(model_version.pk)
    assert model_version.probes.count() == 1  # type: ignore[attr-defined]
    tasks.rebuild_index(0)  # deleted meanwhile

    ModelVersion.objects.update(status=VersionStatus.RETIRED)
    for _ in range(2):
        tasks.drop_embeddings(model_version.pk)
        assert not Embedding.objects.exists()
        assert not ivfflat.is_built(model_version.pk)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'embedding\\_ivfflat%'")
        assert cursor.fetchone() == (0,)
