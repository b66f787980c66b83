"""Dry runs: the ledger tells what would happen, and nothing does."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from ingest.checking import check_ledger
from ingest.importing import import_queued
from ingest.models import Image, OrganClass, OrganName, UploadBatch
from ingest.receiving import open_batch, receive_file
from tests.factories import dicom_bytes, png_bytes

pytestmark = pytest.mark.django_db(transaction=True)

ClientOf = Callable[[str | None], Client]


def originals(media_root: Path) -> int:
    return sum(path.is_file() for path in (media_root / "originals").rglob("*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One of each kind; `brain/known.png` is in the collection already."""
    folder = tmp_path / "set"
    files = {
        "brain/known.png": png_bytes(seed=1),
        "brain/a.dcm": dicom_bytes(),
        "brain/twice.dcm": dicom_bytes(),
        "spleen/b.png": png_bytes(seed=2),
        "spleen/cut.png": png_bytes(seed=3)[:300],
        "spleen/empty.png": b"",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    OrganClass.objects.create(name="brain")
    batch = open_batch("before", "dicom", None)
    receive_file(batch, "known.png", png_bytes(seed=1))
    import_queued()
    return folder


def test_command_tells_what_would_happen(folder: Path, media_root: Path) -> None:
    before, pictures = Image.objects.count(), originals(media_root)
    printed = StringIO()
    call_command("import_images", folder, dataset="ward", dry_run=True, json=True, stdout=printed)
    report = json.loads(printed.getvalue())
    assert (report["imported"], report["would_be_imported"], report["duplicates"]) == (0, 2, 2)
    assert report["rejected"] == {"damaged": 1, "empty_file": 1}
    assert report["names_to_decide"] == ["spleen"]
    rows = UploadBatch.objects.latest("pk").files
    assert rows.get(path="brain/a.dcm").reason == "It would be one image: brain, CT."
    waits = "It would be one image: no organ until somebody decides what spleen means, no modality."
    assert rows.get(path="spleen/b.png").reason == waits
    assert rows.get(path="brain/known.png").duplicate_of == Image.objects.get()
    assert rows.get(path="brain/twice.dcm").reason == "The same bytes come twice: as brain/a.dcm too."
    assert not rows.filter(is_retryable=True).exists()
    assert (Image.objects.count(), originals(media_root)) == (before, pictures)
    assert Image.objects.get().organ is None  # a duplicate gives no label
    assert not OrganName.objects.exists()
    assert all(finding.count == 0 for finding in check_ledger())


def test_command_prints_a_table(folder: Path) -> None:
    printed = StringIO()
    call_command("import_images", folder, dataset="ward", dry_run=True, stdout=printed)
    assert "Dry run: nothing was imported" in printed.getvalue()
    assert "Organ names that would wait for a decision: spleen." in printed.getvalue()


@pytest.mark.parametrize(
    ("makes_organs", "reason"),
    [
        (True, "It would be one image: the new organ brain, CT."),
        (False, "It would be one image: no organ until somebody decides what brain means, CT."),
    ],
)
def test_labels_out_of_dicom_tags(makes_organs: bool, reason: str) -> None:
    batch = open_batch("ward", "dicom", None, makes_organs=makes_organs, is_dry_run=True)
    row = receive_file(batch, "a.dcm", dicom_bytes())
    import_queued()
    row.refresh_from_db()
    assert (row.state, row.reason, row.organ_name, row.modality_code) == ("checked", reason, "brain", "CT")
    assert not OrganClass.objects.exists()


def test_names_that_were_decided() -> None:
    organ = OrganClass.objects.create(name="head-neck")
    known = OrganName.objects.create(name="brain", organ=organ)
    for expected in ("head-neck (brain)", "no organ"):
        batch = open_batch("ward", "dicom", None, is_dry_run=True)
        row = receive_file(batch, "a.dcm", dicom_bytes())
        import_queued()
        row.refresh_from_db()
        assert row.reason == f"It would be one image: {expected}, CT."
        known.organ, known.is_ignored = None, True
        known.save()


def test_page_and_rest(client_of: ClientOf, media_root: Path) -> None:
    client = client_of("curator")
    file = SimpleUploadedFile("a.dcm", dicom_bytes())
    data: dict[str, Any] = {"dataset": "ward", "label_source": "dicom", "loose_files": [file]}
    answer = client.post(reverse("ingest:batch_create"), {**data, "is_dry_run": "on"}, follow=True)
    import_queued()
    page = client.get(answer.redirect_chain[-1][0]).content.decode()
    assert "Nothing is imported." in page
    assert "would be imported 1" in page
    asked = {"dataset": "ward", "is_dry_run": True}
    batch = client.post("/api/v1/batches/", asked, content_type="application/json").json()
    assert batch["is_dry_run"] is True
    client.post(f"/api/v1/batches/{batch['id']}/files/", {"file": SimpleUploadedFile("b.png", png_bytes())})
    import_queued()
    told = client.get(f"/api/v1/batches/{batch['id']}/").json()
    assert (told["state"], told["files"]["checked"], told["files"]["imported"]) == ("finished", 1, 0)
    assert not Image.objects.exists()
    assert originals(media_root) == 0


def test_bytes_that_another_file_waits_for_stay(media_root: Path) -> None:
    trial = open_batch("ward", "dicom", None, is_dry_run=True)
    receive_file(trial, "a.dcm", dicom_bytes())
    real = open_batch("ward", "dicom", None)
    receive_file(real, "a.dcm", dicom_bytes())
    import_queued()
    assert [batch.files.get().state for batch in (trial, real)] == ["checked", "imported"]
    assert originals(media_root) == 1
