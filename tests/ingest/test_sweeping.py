"""What a killed worker left behind goes by itself, and nothing else does."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.core.files.storage import default_storage

from ingest.importing import import_queued
from ingest.models import Decision, Image, QuarantinedFile
from ingest.quarantine import decide
from ingest.receiving import open_batch, receive_file
from ingest.storing import original_name, quarantine_name
from ingest.sweeping import sweep
from ingest.tasks import sweep_storage
from tests.factories import dicom_bytes, png_bytes
from tests.ingest.test_checking import let_all_age, store
from tests.ingest.test_deidentifying import everything_stored, identified, words_left

pytestmark = pytest.mark.django_db


def received(content: bytes, **options: bool) -> str:
    """The SHA-256 of a file that came in, and was read."""
    row = receive_file(open_batch("ward", "dicom", None, **options), "1.dcm", content)
    import_queued()
    return row.sha256


def files(media_root: Path) -> set[Path]:
    return {path for path in media_root.rglob("*") if path.is_file()}


def test_what_a_worker_left_when_it_was_killed_goes(media_root: Path) -> None:
    sha256 = received(identified())
    let_all_age(media_root)
    before = files(media_root)
    store(original_name(sha256), identified())
    assert words_left(everything_stored(media_root))
    sweep_storage()
    assert files(media_root) == before
    assert words_left(everything_stored(media_root)) == []
    with Image.objects.get().original.open() as file:
        assert file.read()


def test_what_a_dry_run_left_goes(media_root: Path) -> None:
    sha256 = received(identified(), is_dry_run=True)
    store(original_name(sha256), identified())
    assert sweep() == 1
    assert files(media_root) == set()


def test_what_a_person_has_rejected_goes_with_its_pictures(media_root: Path) -> None:
    content = dicom_bytes(Modality="US")
    sha256 = received(content)
    let_all_age(media_root)
    assert sweep() == 0  # it waits for the person
    held = QuarantinedFile.objects.get()
    decide(Decision.REJECT, {held.pk: []}, None)  # what follows the commit does not happen in this test
    assert default_storage.exists(quarantine_name(sha256, 1))
    assert sweep() == 2
    assert files(media_root) == set()


def test_what_is_needed_stays(media_root: Path) -> None:
    received(png_bytes())  # kept as it came
    received(identified()[:700])  # rejected, and may be tried again
    received(identified(1))
    batch = open_batch("ward", "dicom", None)
    receive_file(batch, "2.dcm", identified(2))  # not read yet
    let_all_age(media_root)
    before = files(media_root)
    assert len(before) == 3 + 1 + 3 + 1
    assert sweep() == 0
    assert files(media_root) == before


def test_what_has_just_come_stays() -> None:
    sha256 = received(identified())
    path = store(original_name(sha256), identified(), age=timedelta(minutes=50))
    assert sweep() == 0
    assert path.exists()


def test_what_the_ledger_does_not_know_stays() -> None:
    """As after a restored backup of the database: it can still be imported."""
    path = store(original_name("ab" * 32))
    foreign = store("originals/ab/notes.txt")
    assert sweep() == 0
    assert path.exists()
    assert foreign.exists()
