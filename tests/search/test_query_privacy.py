"""What is kept of a query's file: as of an import's, nothing of who the patient is."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from django.core.files.storage import default_storage

from ingest.importing import import_queued
from ingest.models import Image
from ingest.reading import read_image
from ingest.receiving import open_batch, receive_file
from ml.models import ModelVersion
from search import answering, asking
from search.models import Query, QueryStatus
from search.pictures import pixels_of
from search.retrieval import Scope, SearchOptions, search
from tests.factories import png_bytes
from tests.ingest.test_deidentifying import everything_stored, identified, words_left
from tests.ingest.test_picture_notes import SECRET, noted_jpeg, noted_png, noted_tiff
from tests.search.test_indexing import index_all


def answered(query: Query) -> Query:
    answering.answer(query)
    query.refresh_from_db()
    assert query.status == QueryStatus.ANSWERED, query.error
    return query


def import_files(*contents: bytes) -> list[Image]:
    batch = open_batch("ward", "dicom", None)
    for number, content in enumerate(contents):
        receive_file(batch, f"{number}.dcm", content)
    import_queued()
    index_all()
    return list(Image.objects.order_by("pk"))


def test_nothing_identifying_is_stored_of_a_query(model_version: ModelVersion, media_root: Path) -> None:
    query = asking.ask_with_file(identified(), None)
    assert words_left(everything_stored(media_root)) == []  # before anybody has read it
    answered(query)
    region = answered(asking.ask_with_region(query, (0.1, 0.1, 0.9, 0.9), None))
    assert region.rendition
    assert words_left(everything_stored(media_root)) == []
    with query.upload.open() as file:
        assert pydicom.dcmread(file).PatientID == query.group_key


@pytest.mark.parametrize("content", [noted_jpeg(orientation=6), noted_png(), noted_tiff()])
def test_nothing_noted_is_stored_of_a_query(
    model_version: ModelVersion, media_root: Path, content: bytes
) -> None:
    query = asking.ask_with_file(content, None)
    assert SECRET not in everything_stored(media_root)
    answered(query)
    assert np.array_equal(pixels_of(query), read_image(content).frames[0].pixels)


def test_the_querys_own_patient_is_left_out(model_version: ModelVersion) -> None:
    own, other = import_files(identified(), identified(1, PatientID="PID-4712"))
    query = answered(asking.ask_with_file(identified(2), None))
    assert query.group_key == own.group_key != other.group_key
    assert [hit.image_id for hit in search(query, SearchOptions(scope=Scope.ALL)).hits] == [other.pk]


def test_the_querys_own_study_and_file_are_left_out(model_version: ModelVersion) -> None:
    (image,) = import_files(identified(PatientID=""))
    studys = answered(asking.ask_with_file(identified(1, PatientID=""), None))
    assert studys.group_key == image.group_key
    (_, picture) = import_files(png_bytes(seed=4))
    query = answered(asking.ask_with_file(png_bytes(seed=4), None))
    assert query.sha256 == picture.sha256
    assert query.group_key == picture.group_key
    assert [hit.image_id for hit in search(query, SearchOptions(scope=Scope.ALL)).hits] == [image.pk]


def test_a_query_that_waited_as_it_came_is_still_answered(model_version: ModelVersion) -> None:
    """From before query files were de-identified."""
    (own,) = import_files(identified())
    query = asking.ask_with_file(identified(1), None)
    with default_storage.open(str(query.upload.name), "wb") as file:
        file.write(identified(1))
    Query.objects.filter(pk=query.pk).update(group_key="")
    query.refresh_from_db()
    assert answered(query).group_key == own.group_key


@pytest.mark.parametrize(
    ("content", "is_stored"),
    [(b"%PDF-1.7 Meier, Annabel", False), (b"", False), (identified()[:400], True)],
    ids=["letter", "empty", "cut off"],
)
def test_of_a_file_that_cannot_be_read_nothing_identifying_is_stored(
    model_version: ModelVersion, media_root: Path, content: bytes, is_stored: bool
) -> None:
    query = asking.ask_with_file(content, None)
    answering.answer(query)
    query.refresh_from_db()
    assert query.status == QueryStatus.FAILED
    assert query.error.endswith(".")
    assert words_left(everything_stored(media_root)) == []
    assert bool(query.upload) == is_stored
    assert ("queries" in default_storage.listdir("")[0]) == is_stored
