"""What was stored by the earlier, smaller search is searched by this one."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from search import ivfflat
from search.models import FC1_DIMENSIONS, PROJECTION_DIMENSIONS, as_array

BEFORE = [("ingest", "0001_initial"), ("ml", "0003_comparison"), ("search", "0001_initial")]
ALIAS, NAME = "earlier", "cbmir_earlier"


@pytest.fixture
def earlier(django_db_setup: None, django_db_blocker: Any) -> Iterator[Any]:
    """A database of its own, as the earlier release left it."""
    with django_db_blocker.unblock():
        with connections["default"].cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {NAME}")
            cursor.execute(f"CREATE DATABASE {NAME}")
        connections.databases[ALIAS] = {**connections.databases["default"], "NAME": NAME}
        migrate(BEFORE)
        yield connections[ALIAS]
        connections[ALIAS].close()
        del connections[ALIAS], connections.databases[ALIAS]
        with connections["default"].cursor() as cursor:
            cursor.execute(f"DROP DATABASE {NAME}")


def migrate(targets: list[tuple[str, str]]) -> Any:
    """The models as they are then."""
    executor = MigrationExecutor(connections[ALIAS])
    executor.migrate(targets)
    executor.loader.build_graph()
    return executor.loader.project_state(targets).apps


def latest() -> list[tuple[str, str]]:
    return MigrationExecutor(connections[ALIAS]).loader.graph.leaf_nodes()


def fill(apps: Any, fc1: np.ndarray) -> tuple[list[int], Any]:
    """Ids of an image without labels, one of a chest in MR, one of another data set; a query."""

    def model(app: str, name: str) -> Any:
        return apps.get_model(app, name).objects.using(ALIAS)

    brain, chest = (model("ingest", "OrganClass").create(name=name) for name in ("brain", "chest"))
    ct, mr = (model("ingest", "Modality").create(code=code) for code in ("CT", "MR"))
    sets = [model("ingest", "Dataset").create(name=name) for name in ("first", "second")]
    version = model("ml", "ModelVersion").create(checkpoint="none", status="active")
    labels: list[dict[str, Any]] = [
        {"dataset": sets[0], "tags": {"PatientAge": "063Y", "PatientSex": "F", "ViewPosition": "PA"}},
        {"dataset": sets[0], "organ": chest, "modality": mr, "body_part_examined": "THORAX"},
        {"dataset": sets[1], "organ": brain},
    ]
    shared = {"file_format": "PNG", "rows": 1, "columns": 1, "bits_stored": 8, "source_path": "a.png"}
    images = [
        model("ingest", "Image").create(sha256=f"{number:064}", group_key=str(number), **shared, **fields)
        for number, fields in enumerate(labels)
    ]
    for row, image in enumerate(images):
        model("search", "Embedding").create(
            image=image,
            model_version=version,
            fc1=fc1[row],
            projection=fc1[row, :128],
            predicted_organ=brain,
            organ_probability=0.9,
            predicted_modality=ct if row == 0 else None,
        )
    query = model("search", "Query").create(
        status="answered", model_version=version, fc1=fc1[0], projection=fc1[0, :128]
    )
    return [image.pk for image in images], query.pk


def test_embeddings_of_the_earlier_search_are_carried_over(earlier: Any) -> None:
    fc1 = np.random.default_rng(0).integers(0, 9, (3, FC1_DIMENSIONS)).astype(np.float32)
    images, query_pk = fill(MigrationExecutor(earlier).loader.project_state(BEFORE).apps, fc1)
    apps = migrate(latest())
    embeddings = apps.get_model("search", "Embedding").objects.using(ALIAS).order_by("image_id")
    facets = list(embeddings.values_list("image_id", "organ__name", "modality_id", "dataset__name"))
    assert facets == [
        (images[0], "brain", "CT", "first"),
        (images[1], "chest", "MR", "first"),
        (images[2], "brain", None, "second"),
    ]
    for row, embedding in enumerate(embeddings):
        assert np.array_equal(as_array(embedding.fc1), fc1[row])
        assert np.array_equal(as_array(embedding.projection), filled_up(fc1[row]))
    query = apps.get_model("search", "Query").objects.using(ALIAS).get(pk=query_pk)
    assert np.array_equal(as_array(query.projection), filled_up(fc1[0]))
    assert (query.newest_embedding, query.is_unlike, query.parent_id) == (None, None, None)
    image = apps.get_model("ingest", "Image").objects.using(ALIAS).get(pk=images[0])
    assert (image.patient_age_years, image.patient_sex, image.view_position) == (63, "F", "PA")
    thorax = apps.get_model("ingest", "Image").objects.using(ALIAS).get(pk=images[1])
    assert thorax.words == "'thorax':1"
    apps.get_model("ingest", "Image").objects.using(ALIAS).filter(pk=images[0]).update(organ=thorax.organ_id)
    assert embeddings.values_list("organ__name", flat=True)[0] == "chest"  # the triggers are there


def filled_up(fc1: np.ndarray) -> np.ndarray:
    """Distances stay what they were."""
    return np.concatenate([fc1[:128], np.zeros(PROJECTION_DIMENSIONS - 128, np.float32)])


def test_the_earlier_index_goes_and_rows_are_narrow(earlier: Any) -> None:
    migrate(latest())
    with earlier.cursor() as cursor:
        cursor.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'search_embedding'")
        indexes = {name for (name,) in cursor.fetchall()}
        cursor.execute(
            "SELECT attname, attstorage FROM pg_attribute"
            " WHERE attrelid = 'search_embedding'::regclass AND attname IN ('fc1', 'projection')"
        )
        storage = dict(cursor.fetchall())
    assert {"embedding_facets", "embedding_scan"} <= indexes
    assert "embedding_projection_hnsw" not in indexes
    assert not any(name.startswith(ivfflat.name_of(1)[:-1]) for name in indexes)
    assert storage == {"fc1": "e", "projection": "p"}
