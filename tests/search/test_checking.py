"""Images and their embeddings; and `manage.py check_collection` as a whole, on real files."""

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from ingest.checking import Finding
from ingest.importing import import_queued
from ingest.models import Image
from ingest.receiving import open_batch, receive_file
from ml.models import ModelVersion, VersionStatus
from search import indexing
from search.checking import check_embeddings
from search.models import Embedding
from tests.factories import dicom_bytes, make_image, make_model_version


@pytest.fixture
def images(model_version: ModelVersion) -> list[Image]:
    """Three images, imported two hours ago and indexed since."""
    batch = open_batch("ward", "dicom", None)
    for seed in range(3):
        receive_file(batch, f"Meier/{seed}.dcm", dicom_bytes(seed=seed))
    import_queued()
    let_all_age()
    indexing.index_next_batch()
    return list(Image.objects.order_by("pk"))


def let_all_age() -> None:
    Image.objects.update(created_at=timezone.now() - timedelta(hours=2))


def found(findings: list[Finding]) -> dict[str, tuple[int, int, list[int]]]:
    return {f.code: (f.count, f.repaired, f.numbers) for f in findings if f.count}


def check(*arguments: str) -> tuple[str, str]:
    """What the command prints, and the sentence that it fails with (exit status 1), if it does."""
    out, sentence = StringIO(), ""
    try:
        call_command("check_collection", *arguments, stdout=out)
    except CommandError as error:
        sentence = str(error)
    return out.getvalue(), sentence


def check_as_json(*arguments: str) -> dict[str, int]:
    """How many are left of what was found."""
    printed, _ = check("--json", *arguments)
    return {finding["code"]: finding["left"] for finding in json.loads(printed)["findings"]}


@pytest.mark.parametrize("arguments", [(), ("--deep",), ("--repair", "--deep")])
def test_sound_collection_passes(images: list[Image], arguments: tuple[str, ...]) -> None:
    printed, failed = check(*arguments)
    assert "3 images checked" in printed
    assert "nothing is wrong" in printed
    assert failed == ""


def test_image_without_embedding_is_found_and_the_workers_are_rung_for(
    images: list[Image], rung: Callable[[], set[str]], django_capture_on_commit_callbacks: Any
) -> None:
    Embedding.objects.filter(image=images[1]).delete()
    with django_capture_on_commit_callbacks(execute=True):
        assert found(check_embeddings()) == {"embedding_missing": (1, 0, [images[1].pk])}
    assert rung() == set()
    with django_capture_on_commit_callbacks(execute=True):
        assert found(check_embeddings(repair=True)) == {"embedding_missing": (1, 0, [images[1].pk])}
    assert rung() == {"search.index_images"}
    indexing.index_next_batch()
    assert found(check_embeddings()) == {}


def test_embedding_of_another_version_does_not_count(images: list[Image]) -> None:
    ModelVersion.objects.update(status=VersionStatus.RETIRED)
    assert found(check_embeddings()) == {}, "without an active version nothing is missing"
    make_model_version(seed=1)
    assert found(check_embeddings())["embedding_missing"] == (3, 0, [image.pk for image in images])


def test_image_that_has_just_come_in_is_no_problem(images: list[Image]) -> None:
    image = make_image()
    findings = check_embeddings()
    assert found(findings) == {"embedding_awaited": (1, 0, [image.pk])}
    assert not any(finding.left for finding in findings)


def test_embedding_without_its_image_is_taken_away(images: list[Image]) -> None:
    stray = Embedding.objects.get(image=images[0])
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # as a careless restore does
        cursor.execute("DELETE FROM ingest_image WHERE id = %s", [images[0].pk])
        cursor.execute("SET LOCAL session_replication_role = origin")
    assert found(check_embeddings()) == {"embedding_stray": (1, 0, [stray.pk])}
    assert found(check_embeddings(repair=True)) == {"embedding_stray": (1, 1, [])}
    assert found(check_embeddings()) == {}
    assert Embedding.objects.count() == 2


def test_command_repairs_what_can_be_repaired_and_tells_the_rest(images: list[Image]) -> None:
    lost, mended, unseen = images
    default_storage.delete(str(lost.original))
    default_storage.delete(str(mended.rendition))
    default_storage.delete(str(mended.preview))
    Embedding.objects.filter(image=unseen).delete()
    damage = {"original_lost": 1, "rendition": 1, "preview": 1, "embedding_missing": 1}
    assert check_as_json() == damage
    printed, failed = check("--repair")
    assert f"image {lost.pk}" in printed
    assert failed.startswith("2 problems are left")
    indexing.index_next_batch()
    assert check_as_json("--deep") == {"original_lost": 1}
    printed, failed = check()
    assert failed.startswith("1 problem is left")
    receive_file(open_batch("ward", "dicom", None), "again.dcm", dicom_bytes(seed=0))
    import_queued()
    assert check("--deep")[1] == ""


def test_command_names_no_file(images: list[Image]) -> None:
    for image in images:
        default_storage.delete(str(image.original))
    default_storage.save("originals/Meier", ContentFile(b"x"))
    for arguments in ((), ("--json",), ("--repair",)):
        printed, failed = check(*arguments)
        assert failed.startswith("3 problems are left")
        for word in ("Meier", "originals", images[0].sha256):
            assert word not in printed + failed


def test_storage_that_fails_ends_the_command_with_a_sentence(images: list[Image], media_root: Path) -> None:
    (media_root / "renditions").rename(media_root / "aside")
    (media_root / "renditions").write_text("a file where a folder has to be")
    _, failed = check()
    assert failed == "The file storage failed: Not a directory."
