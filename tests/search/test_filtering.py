"""What is searched: labels kept true by the database, words, ages, the query's own images."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from ingest.models import Dataset, Image, Modality, OrganClass
from ml.models import ModelVersion
from search.filtering import images_filtered, own_embeddings
from search.models import Embedding, Query
from search.options import SearchOptions
from tests import factories


def embed(version: ModelVersion, **fields: Any) -> Embedding:
    """Of an image with these fields; a brain in CT to the network."""
    (image,) = factories.make_bare_images(1)
    for name, value in fields.items():
        setattr(image, name, value)
    image.save()
    return factories.make_embedding(image, version, np.zeros(4096, np.float32))


def searched_as(embedding: Embedding) -> tuple[str, str | None, str]:
    found = Embedding.objects.select_related("organ", "dataset").get(pk=embedding.pk)
    return found.organ.name, found.modality_id, found.dataset.name


@pytest.fixture
def labels(db: None) -> dict[str, Any]:
    return {
        "chest": OrganClass.objects.create(name="chest"),
        "MR": Modality.objects.create(code="MR"),
        "other": Dataset.objects.create(name="other"),
    }


def test_labels_count_and_predictions_where_there_are_none(
    model_version: ModelVersion, labels: dict[str, Any]
) -> None:
    assert searched_as(embed(model_version)) == ("brain", "CT", "test")
    assert searched_as(embed(model_version, organ=labels["chest"])) == ("chest", "CT", "test")
    assert searched_as(embed(model_version, modality=labels["MR"])) == ("brain", "MR", "test")


def save(image: Image, **fields: Any) -> None:
    for name, value in fields.items():
        setattr(image, name, value)
    image.save()


def update(image: Image, **fields: Any) -> None:
    Image.objects.filter(pk=image.pk).update(**fields)


def bulk_update(image: Image, **fields: Any) -> None:
    for name, value in fields.items():
        setattr(image, name, value)
    Image.objects.bulk_update([image], list(fields))


@pytest.mark.parametrize("change", [save, update, bulk_update])
def test_whoever_relabels_an_image_relabels_its_embeddings(
    model_version: ModelVersion, labels: dict[str, Any], change: Callable[..., None]
) -> None:
    embedding, untouched = embed(model_version), embed(model_version)
    other_version = factories.make_embedding(
        embedding.image, factories.make_model_version("retired"), np.zeros(4096, np.float32)
    )
    change(embedding.image, organ=labels["chest"], modality=labels["MR"])
    assert searched_as(embedding) == searched_as(other_version) == ("chest", "MR", "test")
    change(embedding.image, dataset=labels["other"])
    assert searched_as(embedding) == searched_as(other_version) == ("chest", "MR", "other")
    change(embedding.image, organ=None, modality=None)
    assert searched_as(embedding) == searched_as(other_version) == ("brain", "CT", "other")
    assert searched_as(untouched) == ("brain", "CT", "test")


def test_many_images_are_relabelled_at_once(model_version: ModelVersion, labels: dict[str, Any]) -> None:
    embeddings = [embed(model_version) for _ in range(5)]
    Image.objects.all().update(organ=labels["chest"], dataset=labels["other"])
    assert {searched_as(embedding) for embedding in embeddings} == {("chest", "CT", "other")}
    Image.objects.all().update(split="test")
    assert {searched_as(embedding) for embedding in embeddings} == {("chest", "CT", "other")}


def test_a_new_prediction_counts_where_there_is_no_label(
    model_version: ModelVersion, labels: dict[str, Any]
) -> None:
    unlabelled, labelled = embed(model_version), embed(model_version, organ=labels["chest"])
    knee = OrganClass.objects.create(name="knee")
    Embedding.objects.update(predicted_organ=knee, predicted_modality=None)
    assert searched_as(unlabelled) == ("knee", None, "test")
    assert searched_as(labelled) == ("chest", None, "test")
    unlabelled.refresh_from_db()
    unlabelled.predicted_modality = labels["MR"]
    unlabelled.organ = labels["chest"]  # nobody else sets it
    unlabelled.save()
    assert searched_as(unlabelled) == ("knee", "MR", "test")


@pytest.fixture
def asked(model_version: ModelVersion) -> Query:
    return Query.objects.create(model_version=model_version)


def kept(query: Query, **options: Any) -> set[int]:
    found = images_filtered(query, SearchOptions(**options))
    return {*found.values_list("pk", flat=True)}


@pytest.mark.parametrize(
    ("words", "is_found"),
    [
        ("knee", True),
        ("KNEE", True),
        ("kne", False),  # whole words
        ("left knee", True),
        ("knee left", True),
        ('"left knee"', True),
        ('"knee left"', False),
        ("knee -left", False),
        ("knee -right", True),
        ("hip or knee", True),
        ("extremity", True),  # what the file calls the body part
        ("siemens", True),
        ("!!!", False),
        ("' | & : * ( )", False),
        ("-", False),
    ],
)
def test_words_are_those_that_the_file_says(
    model_version: ModelVersion, asked: Query, words: str, is_found: bool
) -> None:
    tags = {"StudyDescription": "Left knee, lateral", "Manufacturer": "SIEMENS", "Rows": 512}
    embedding = embed(model_version, tags=tags, body_part_examined="EXTREMITY")
    embed(model_version, tags={}, body_part_examined="")
    assert kept(asked, words=words) == ({embedding.pk} if is_found else set())


@pytest.mark.parametrize(
    ("age", "years", "band"),
    [
        ("063Y", 63, "60-79"),
        ("017Y", 17, "0-17"),
        ("018Y", 18, "18-39"),
        ("023M", 1, "0-17"),
        ("216M", 18, "18-39"),
        ("006W", 0, "0-17"),
        ("900D", 0, "0-17"),  # as the file says: days are for the first months
        ("104Y", 104, "80+"),
        ("63", None, ""),
        ("0063Y", None, ""),
        ("Y", None, ""),
        ("", None, ""),
        (None, None, ""),
        (63, None, ""),
        (["063Y"], None, ""),
    ],
)
def test_ages_are_read_as_dicom_writes_them(
    model_version: ModelVersion, asked: Query, age: Any, years: int | None, band: str
) -> None:
    embedding = embed(model_version, tags={"PatientAge": age})
    assert Image.objects.get().patient_age_years == years
    for name in ("0-17", "18-39", "40-59", "60-79", "80+"):
        assert kept(asked, age=name) == ({embedding.pk} if name == band else set())


def test_days_begin_and_end_at_midnight(model_version: ModelVersion, asked: Query) -> None:
    hours = [(1, 23, 59), (2, 0, 0), (2, 23, 59), (3, 0, 0)]
    found = [embed(model_version) for _ in hours]
    for embedding, (day, hour, minute) in zip(found, hours, strict=True):
        update(embedding.image, created_at=datetime(2026, 5, day, hour, minute, 59, tzinfo=UTC))
    day = datetime(2026, 5, 2).date()
    pks = [embedding.pk for embedding in found]
    assert kept(asked, imported_from=day) == {*pks[1:]}
    assert kept(asked, imported_to=day) == {*pks[:3]}
    assert kept(asked, imported_from=day, imported_to=day) == {*pks[1:3]}


def test_the_querys_own_images_are_its_patients_and_its_copies(model_version: ModelVersion) -> None:
    itself, patients, copy, stranger = (
        embed(model_version, group_key=group, sha256=sha256, frame_number=number)
        for number, (group, sha256) in enumerate([("p", "a"), ("p", "b"), ("q", "a"), ("r", "c")], 1)
    )
    elsewhere = factories.make_embedding(
        itself.image, factories.make_model_version("retired"), np.zeros(4096, np.float32)
    )

    def own(query: Query) -> set[int]:
        return {*own_embeddings(query)}

    query = Query.objects.create(model_version=model_version, image=itself.image, group_key="p", sha256="a")
    assert own(query) == {itself.pk, patients.pk, copy.pk}
    assert elsewhere.pk not in own(query)
    upload = Query.objects.create(model_version=model_version, sha256="c")
    assert own(upload) == {stranger.pk}
    assert own(Query.objects.create(model_version=model_version)) == set()
    region = Query.objects.create(model_version=model_version, parent=query, region=[0, 0, 1, 0.5])
    refined = Query.objects.create(model_version=model_version, parent=region)
    assert own(refined) == own(region) == own(query)
    whole = Query.objects.create(model_version=model_version)
    whole.parts.set([region, upload])
    assert own(whole) == {itself.pk, patients.pk, copy.pk, stranger.pk}
