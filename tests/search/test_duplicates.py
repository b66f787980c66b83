"""Three kinds of duplicates, never confused; two images made one with all that hangs on them; by whom."""

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from django.core.files.storage import default_storage
from django.core.management import call_command
from django.test import Client
from PIL import Image as PillowImage

from ingest.importing import import_queued
from ingest.labelling import Labels, label
from ingest.labels import Claims
from ingest.models import (
    DuplicatePair,
    FileState,
    Image,
    LabelEdit,
    LabelOrigin,
    Likeness,
    UploadBatch,
    UploadedFile,
)
from ingest.receiving import open_batch, receive_file
from ml.models import ModelVersion
from search import asking, indexing, likeness, tasks
from search.merging import MergeError, keep_apart, merge
from search.models import Mark, Query, VersionIndex
from tests.factories import (
    dicom_bytes,
    make_embeddings,
    make_image,
    make_pixels,
    make_user,
    png_bytes,
)
from tests.search.test_same_picture import phantom

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]


def tiff_bytes(seed: int) -> bytes:
    buffer = BytesIO()
    PillowImage.fromarray(make_pixels(seed)).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.fixture
def batch() -> UploadBatch:
    return open_batch("ward", "dicom", None, makes_organs=True)


def bring_in(batch: UploadBatch, path: str, content: bytes, *claims: str) -> UploadedFile:
    row = receive_file(batch, path, content, Claims(*claims))
    import_queued()
    row.refresh_from_db()
    return row


def bring_in_a_pair(batch: UploadBatch, first: Claims, second: Claims) -> DuplicatePair:
    """The same pixels as PNG and as TIFF."""
    receive_file(batch, "a.png", png_bytes(seed=1), first)
    receive_file(batch, "a.tiff", tiff_bytes(1), second)
    import_queued()
    return DuplicatePair.objects.get()


def pairs() -> list[tuple[int, int, str]]:
    return list(DuplicatePair.objects.values_list("first", "second", "likeness"))


def test_the_same_bytes_and_the_same_pixels_are_told_apart(batch: UploadBatch) -> None:
    first = bring_in(batch, "a.png", png_bytes(seed=1))
    again = bring_in(batch, "b.png", png_bytes(seed=1))
    other = bring_in(batch, "c.tiff", tiff_bytes(1))
    bring_in(batch, "d.png", png_bytes(seed=2))
    image = first.images.get()
    assert (again.state, again.duplicate_of) == (FileState.DUPLICATE, image)
    assert other.state == FileState.IMPORTED
    assert pairs() == [(image.pk, other.images.get().pk, "pixels")]


def test_equal_frames_of_one_file_are_no_pair(batch: UploadBatch) -> None:
    frame = (make_pixels(1).astype(np.uint16) * 16).tobytes()
    row = bring_in(batch, "a.dcm", dicom_bytes(NumberOfFrames=2, PixelData=frame * 2))
    assert row.images.count() == 2
    assert pairs() == []


def test_many_of_the_same_pixels_are_pairs_with_the_oldest(batch: UploadBatch) -> None:
    contents = [png_bytes(seed=1) + bytes(n) for n in range(4)]  # what follows the picture is not read
    images = [bring_in(batch, f"{n}.png", content).images.get().pk for n, content in enumerate(contents)]
    assert [pair[:2] for pair in pairs()] == [(images[0], other) for other in images[1:]]


def test_older_images_are_hashed_when_the_collection_is_repaired(batch: UploadBatch, capsys: Any) -> None:
    bring_in_a_pair(batch, Claims(), Claims())
    hashes = list(Image.objects.values_list("pixel_hash", flat=True))
    Image.objects.update(pixel_hash="")
    DuplicatePair.objects.all().delete()
    for repair, codes in [(False, ["pixels_unknown"]), (True, ["pixels_unknown"]), (False, [])]:
        call_command("check_collection", repair=repair, json=True)
        assert [found["code"] for found in json.loads(capsys.readouterr().out)["findings"]] == codes
    assert list(Image.objects.values_list("pixel_hash", flat=True)) == hashes
    assert len(pairs()) == 1


def test_a_merge_keeps_labels_provenance_and_history(batch: UploadBatch) -> None:
    pair = bring_in_a_pair(batch, Claims("brain"), Claims("", "mr", "patient 7", "test"))
    kept, gone = pair.first, pair.second
    curator = make_user("curator")
    label(Image.objects.filter(pk=gone.pk), Labels(split="test"), curator, LabelOrigin.ADMIN)
    again = bring_in(batch, "again.tiff", tiff_bytes(1))
    assert again.duplicate_of == gone
    query = asking.ask_with_image(gone, curator)
    for image in (kept, gone):
        Mark.objects.create(query=query, image=image, created_by=curator, is_relevant=True)
    Mark.objects.create(query=query, image=gone, created_by=make_user("clinician"), is_relevant=False)
    query.relevant.add(gone)

    assert merge(pair, kept.pk, {}, curator) == kept
    kept.refresh_from_db()
    assert (str(kept.organ), kept.modality_id, kept.split) == ("brain", "MR", "test")
    assert kept.group_key == gone.group_key
    file, again = UploadedFile.objects.get(path="a.tiff"), UploadedFile.objects.get(path="again.tiff")
    assert (file.state, file.reason_code, file.duplicate_of) == (FileState.DUPLICATE, "merged", kept)
    assert again.duplicate_of == kept
    edits = LabelEdit.objects.filter(changes__image=kept).order_by("pk")
    assert [edit.origin for edit in edits.distinct()] == ["admin", "duplicate"]
    query = Query.objects.get()
    assert (query.image, query.preview.name) == (kept, kept.preview.name)
    assert list(query.relevant.all()) == [kept]
    assert Mark.objects.filter(image=kept).count() == 2
    assert pairs() == []
    assert not Image.objects.filter(pk=gone.pk).exists()
    assert bring_in(batch, "late.tiff", tiff_bytes(1)).duplicate_of == kept  # the same bytes once more


def test_a_merge_leaves_a_clean_collection(
    batch: UploadBatch, django_capture_on_commit_callbacks: Any, capsys: Any
) -> None:
    pair = bring_in_a_pair(batch, Claims("brain"), Claims("brain"))
    gone, kept = pair.first, pair.second
    with django_capture_on_commit_callbacks(execute=True):
        merge(pair, kept.pk, {}, make_user("curator"))
    assert not default_storage.exists(gone.original.name)
    assert default_storage.exists(kept.original.name)
    call_command("check_collection", deep=True, json=True)
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_contradicting_labels_are_chosen(batch: UploadBatch) -> None:
    pair = bring_in_a_pair(batch, Claims("brain", "ct"), Claims("chest", "ct"))
    with pytest.raises(MergeError, match="choose the organ"):
        merge(pair, pair.first_id, {}, make_user("curator"))
    assert Image.objects.count() == 2
    merge(pair, pair.first_id, {"organ": "second"}, make_user("curator"))
    assert str(Image.objects.get().organ) == "chest"


def test_what_was_said_to_be_different_does_not_come_again(batch: UploadBatch) -> None:
    pair = bring_in_a_pair(batch, Claims(), Claims())
    third = bring_in(batch, "c.png", png_bytes(seed=1) + b"x").images.get()
    keep_apart(pair, make_user("curator"))
    Image.objects.update(pixel_hash="")
    call_command("check_collection", repair=True)
    assert DuplicatePair.objects.open().count() == 1
    merge(DuplicatePair.objects.open().get(), third.pk, {}, make_user("curator"))  # the first one goes
    left = DuplicatePair.objects.get()
    assert (left.is_different, {left.first, left.second}) == (True, {pair.second, third})


@pytest.fixture
def near(model_version: ModelVersion) -> list[Image]:
    """Three far apart; the fourth and fifth show the first one's picture, the fifth in its series."""
    images = [make_image(series_key="series" * (number in (0, 4))) for number in range(5)]
    Image.objects.filter(pk__in=[images[3].pk, images[4].pk]).update(rendition=images[0].rendition.name)
    fc1 = np.zeros((5, 4096), np.float32)
    fc1[[0, 1, 2], [0, 1, 2]] = 10
    fc1[3] = fc1[4] = fc1[0]
    fc1[3, 3] = fc1[4, 4] = 0.1
    make_embeddings(images, model_version, fc1)
    VersionIndex.objects.create(model_version=model_version, images=5)
    return images


def test_near_duplicates_are_found_once_and_not_within_a_series(near: list[Image]) -> None:
    assert likeness.find_near_duplicates() is False
    expected = [(near[0].pk, near[3].pk, "near"), (near[3].pk, near[4].pk, "near")]
    assert sorted(pairs()) == expected
    DuplicatePair.objects.update(is_different=True)
    VersionIndex.objects.update(duplicates_up_to=0)  # as under another version
    tasks.find_near_duplicates()
    assert sorted(pairs()) == expected
    assert not DuplicatePair.objects.open().exists()


def test_only_new_embeddings_are_compared(near: list[Image], django_assert_num_queries: Any) -> None:
    likeness.find_near_duplicates()
    with django_assert_num_queries(3):
        likeness.find_near_duplicates()


def test_many_nearly_the_same_are_pairs_with_the_oldest(near: list[Image]) -> None:
    Image.objects.update(rendition=near[0].rendition.name, series_key="")
    assert likeness.find_near_duplicates() is False
    oldest = near[0].pk
    assert sorted(pairs()) == [(oldest, image.pk, "near") for image in near[1:]]


def test_the_same_pixels_are_no_pair_again(near: list[Image]) -> None:
    Image.objects.filter(pk__in=[near[0].pk, near[3].pk]).update(pixel_hash="0" * 64)
    assert likeness.find_near_duplicates() is False
    assert pairs() == [(near[3].pk, near[4].pk, "near")]


def test_a_missing_file_leaves_its_image_out(near: list[Image]) -> None:
    Image.objects.filter(pk=near[3].pk).update(rendition="renditions/gone.png")
    assert likeness.find_near_duplicates() is False
    assert pairs() == []


def jpeg_bytes(picture: PillowImage.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def test_an_import_encoded_anew_is_found_and_another_patient_is_not(
    batch: UploadBatch, model_version: ModelVersion
) -> None:
    """From the files to the page's pairs, with every step and a network between."""
    ours, theirs = phantom(patient=0), phantom(patient=1)
    first = bring_in(batch, "a.png", png_bytes(np.asarray(ours)))
    other = bring_in(batch, "b.png", png_bytes(np.asarray(theirs)))
    again = bring_in(batch, "c.jpg", jpeg_bytes(ours))
    while indexing.index_next_batch():
        pass
    indexing.prepare_versions()
    assert [row.state for row in (first, other, again)] == [FileState.IMPORTED] * 3
    assert likeness.find_near_duplicates() is False
    assert pairs() == [(first.images.get().pk, again.images.get().pk, "near")]


def test_page_by_role(client_of: ClientOf) -> None:
    pair = make_pair()
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        client = client_of(role)
        assert client.get("/imports/duplicates/").status_code == expected
        answer = client.post(f"/imports/duplicates/{pair.pk}/", {"answer": "first"})
        assert answer.status_code == expected
    assert Image.objects.count() == 2


def make_pair(**fields: Any) -> DuplicatePair:
    first, second = make_image(organ="brain"), make_image(organ="chest", **fields)
    return DuplicatePair.objects.create(first=first, second=second, likeness=Likeness.NEAR)


def test_pairs_are_answered_on_the_page(client_of: ClientOf, batch: UploadBatch) -> None:
    pair = make_pair()
    client, url = client_of("curator"), f"/imports/duplicates/{pair.pk}/"
    page = client.get("/imports/duplicates/").content.decode()
    assert "Nearly the same" in page
    assert "The labels contradict each other. Which organ?" in page

    def post(**data: str) -> str:
        return client.post(url, data, follow=True).content.decode()

    assert "choose the organ" in post(answer="first")
    assert f"Image {pair.first_id} stays for both." in post(answer="first", organ="second")
    assert client.post(url, {"answer": "first"}).status_code == 404
    assert str(Image.objects.get().organ) == "chest"
    other = make_pair()
    page = client.post(f"/imports/duplicates/{other.pk}/", {"answer": "different"}, follow=True)
    assert "stay two" in page.content.decode()
    assert "No pair waits here." in page.content.decode()

    bring_in(batch, "a.png", png_bytes(seed=1))
    bring_in(batch, "twice.png", png_bytes(seed=1))
    page_of_bytes = client.get("/imports/duplicates/?kind=bytes").content.decode()
    assert "twice.png" in page_of_bytes
    assert "No pair waits here." in client.get("/imports/duplicates/?kind=pixels").content.decode()


def test_near_duplicates_wait_until_the_images_are_described(
    near: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "BATCH_SIZE", 2)
    waiting = [make_image(seed=900 + n) for n in range(3)]
    tasks.find_near_duplicates()
    assert pairs() == []
    waiting[0].delete()
    tasks.find_near_duplicates()
    assert pairs()
