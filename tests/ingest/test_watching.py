"""Watched folders: complete files come in once, whatever happens in between."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ingest.importing import import_queued
from ingest.models import Dataset, Image, PendingFile, UploadBatch, UploadedFile, WatchedFolder
from ingest.pending import receive_pending
from ingest.pseudonyms import keyed_hash
from ingest.tasks import look_at_watched_folders
from ingest.watching import look_at_all
from tests.factories import png_bytes, zip_bytes

pytestmark = pytest.mark.django_db(transaction=True)

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def inbox(settings: Any, tmp_path: Path) -> Path:
    inbox = tmp_path / "share" / "inbox"
    inbox.mkdir(parents=True)
    settings.IMPORT_ROOTS = [str(inbox.parent)]
    return inbox


@pytest.fixture
def folder(inbox: Path) -> WatchedFolder:
    dataset = Dataset.objects.create(name="ward")
    return WatchedFolder.objects.create(path=str(inbox), dataset=dataset, label_source="folder")


def look_a_minute_later() -> int:
    WatchedFolder.objects.update(looked_at=timezone.now() - timedelta(minutes=1))
    return look_at_all()


def test_files_come_in_once_they_hold_still(folder: WatchedFolder, inbox: Path) -> None:
    (inbox / "heart").mkdir()
    (inbox / "heart" / "a.png").write_bytes(png_bytes(seed=1))
    (inbox / "growing.png").write_bytes(png_bytes(seed=2)[:100])
    assert look_at_all() == 0
    assert look_at_all() == 0  # too soon to tell
    (inbox / "growing.png").write_bytes(png_bytes(seed=2))
    assert look_a_minute_later() == 1
    receive_pending()
    assert list(UploadedFile.objects.values_list("path", "organ_name")) == [("heart/a.png", "heart")]
    assert look_a_minute_later() == 1
    receive_pending()
    import_queued()
    batch = UploadBatch.objects.get()  # one for the day
    assert batch.files.filter(state="imported").count() == 2
    assert batch.source == str(inbox)
    assert batch.is_finished
    assert look_a_minute_later() == 0
    assert sorted(path.name for path in inbox.iterdir()) == ["growing.png", "heart"]


def test_changed_file_comes_in_again_and_a_vanished_share_changes_nothing(
    folder: WatchedFolder, inbox: Path
) -> None:
    (inbox / "a.png").write_bytes(png_bytes(seed=1))
    look_at_all()
    assert look_a_minute_later() == 1
    receive_pending()
    inbox.rename(inbox.with_name("unmounted"))
    assert look_a_minute_later() == 0
    folder.refresh_from_db()
    assert "There is no such folder" in folder.problem
    inbox.mkdir()  # mounted, and empty for a moment
    assert look_a_minute_later() == 0
    inbox.rmdir()
    inbox.with_name("unmounted").rename(inbox)
    assert look_a_minute_later() == 0
    assert look_a_minute_later() == 0
    folder.refresh_from_db()
    assert folder.problem == ""
    (inbox / "a.png").write_bytes(png_bytes(seed=2))
    assert look_a_minute_later() == 0
    assert look_a_minute_later() == 1
    receive_pending()
    assert UploadedFile.objects.count() == 2


def test_look_that_dies_half_way_loses_and_repeats_nothing(
    folder: WatchedFolder, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingest import watching

    for number in range(3):
        (inbox / f"{number}.png").write_bytes(png_bytes(seed=number))
    look_at_all()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt  # as when the process is ended

    with monkeypatch.context() as patch:
        patch.setattr(watching, "expect_files", die)
        with pytest.raises(KeyboardInterrupt):
            look_a_minute_later()
    assert not PendingFile.objects.exists()
    assert look_a_minute_later() == 3
    assert look_a_minute_later() == 0
    receive_pending()
    assert UploadedFile.objects.count() == 3


def test_inactive_folders_are_left_alone(folder: WatchedFolder, inbox: Path) -> None:
    WatchedFolder.objects.update(is_active=False)
    (inbox / "a.png").write_bytes(png_bytes(seed=1))
    assert look_at_all() == look_a_minute_later() == 0


def test_folder_that_left_the_roots_is_not_read(folder: WatchedFolder, inbox: Path, settings: Any) -> None:
    (inbox / "a.png").write_bytes(png_bytes(seed=1))
    look_at_all()
    settings.IMPORT_ROOTS = [str(inbox / "elsewhere")]
    assert look_a_minute_later() == 0
    assert not PendingFile.objects.exists()


def test_links_and_hidden_files_are_not_taken(folder: WatchedFolder, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png_bytes(seed=1))
    os.symlink(tmp_path / "secret.png", inbox / "link.png")
    (inbox / ".part.png").write_bytes(png_bytes(seed=2))
    look_at_all()
    assert look_a_minute_later() == 0


def test_task_rings_for_the_import(folder: WatchedFolder, inbox: Path, rung: Callable[[], set[str]]) -> None:
    (inbox / "a.png").write_bytes(png_bytes(seed=1))
    look_at_watched_folders()
    assert rung() == set()
    WatchedFolder.objects.update(looked_at=timezone.now() - timedelta(minutes=1))
    look_at_watched_folders()
    assert rung() == {"ingest.import_queued_files"}
    receive_pending()
    import_queued()
    assert Image.objects.count() == 1


@pytest.fixture
def labelled(folder: WatchedFolder) -> WatchedFolder:
    """Its labels come from a manifest, whose column of organs has a name of its own."""
    Dataset.objects.update(manifest_columns={"organ": "diagnosis"})
    WatchedFolder.objects.update(label_source="manifest")
    return folder


def problem() -> str:
    return WatchedFolder.objects.get().problem


def ledger() -> list[tuple[str, str, str, str]]:
    receive_pending()
    return list(UploadedFile.objects.values_list("path", "organ_name", "group_key", "reason_code"))


def test_files_wait_until_the_manifest_names_them(
    labelled: WatchedFolder, inbox: Path, media_root: Path
) -> None:
    (inbox / "x").mkdir()
    for number, name in enumerate(["x/a.png", "b.png", "c.png"]):
        (inbox / name).write_bytes(png_bytes(seed=number))
    look_at_all()
    assert look_a_minute_later() == 0
    assert problem() == "There is no manifest.csv in the folder."
    manifest = inbox / "manifest.csv"
    manifest.write_text("file,diagnosis,patient\nx/a.png,heart,P1\nlater.png,heart,P1\n")
    assert look_a_minute_later() == 0  # it may still be written
    assert look_a_minute_later() == 1
    assert problem() == "2 files wait until the manifest.csv names them."
    manifest.write_text(manifest.read_text() + "b.png,liver,P2\n")  # while x/a.png is on its way in
    assert ledger() == [("x/a.png", "heart", keyed_hash("P1"), "")]
    assert look_a_minute_later() == 0
    assert look_a_minute_later() == 1
    assert problem() == "1 file waits until the manifest.csv names it."
    assert ledger()[1:] == [("b.png", "liver", keyed_hash("P2"), "")]  # and nothing is missing
    manifest.write_text(manifest.read_text() + "c.png,liver,P2\n")
    assert [look_a_minute_later(), look_a_minute_later(), look_a_minute_later()] == [0, 1, 0]
    assert (problem(), len(ledger())) == ("", 3)
    assert UploadBatch.objects.get().is_finished is False
    import_queued()
    assert UploadBatch.objects.get().is_finished
    assert Image.objects.count() == 3
    assert list((media_root / "uploads").iterdir()) == []  # no copy of the manifest is left


def test_two_looks_before_anything_is_taken_in(labelled: WatchedFolder, inbox: Path) -> None:
    manifest = inbox / "manifest.csv"
    (inbox / "a.png").write_bytes(png_bytes(seed=1))
    (inbox / "b.png").write_bytes(png_bytes(seed=2))
    manifest.write_text("path,diagnosis\na.png,heart\n")
    look_at_all()
    assert look_a_minute_later() == 1
    manifest.write_text("path,diagnosis\na.png,heart\nb.png,liver\n")
    assert look_a_minute_later() == 0
    assert look_a_minute_later() == 1
    assert [row[:2] for row in ledger()] == [("a.png", "heart"), ("b.png", "liver")]


def test_a_manifest_that_cannot_be_used_is_told(labelled: WatchedFolder, inbox: Path) -> None:
    (inbox / "a.png").write_bytes(png_bytes(seed=1))
    (inbox / "manifest.csv").write_text("path,finding\na.png,heart\n")
    look_at_all()
    assert look_a_minute_later() == 0
    assert problem() == "The manifest lacks the column diagnosis. Its columns are: path, finding."
    Dataset.objects.update(manifest_columns={"organ": "finding"})
    assert look_a_minute_later() == 1
    assert (problem(), [row[:2] for row in ledger()]) == ("", [("a.png", "heart")])


def test_archives_beside_a_manifest_and_with_their_own(labelled: WatchedFolder, inbox: Path) -> None:
    own = {"manifest.csv": b"path,diagnosis\na.png,heart\n", "a.png": png_bytes(seed=1)}
    (inbox / "own.zip").write_bytes(zip_bytes(own))
    look_at_all()
    assert look_a_minute_later() == 1
    assert [row[:2] for row in ledger()] == [("own.zip/a.png", "heart")]
    (inbox / "in.zip").write_bytes(zip_bytes({"b.png": png_bytes(seed=2)}))
    (inbox / "manifest.csv").write_text("path,diagnosis\nin.zip/b.png,liver\n")
    assert [look_a_minute_later(), look_a_minute_later()] == [0, 1]
    assert [row[:2] for row in ledger()][1:] == [("in.zip/b.png", "liver")]


def test_admin_by_role(client_of: ClientOf, inbox: Path) -> None:
    dataset = Dataset.objects.create(name="ward")
    add = reverse("admin:ingest_watchedfolder_add")
    data = {"path": f"{inbox}/", "dataset": dataset.pk, "label_source": "dicom", "is_active": "on"}
    for role, expected in {"curator": 403, "clinician": 302, None: 302}.items():
        assert client_of(role).post(add, data).status_code == expected
    client = client_of("admin")
    page = client.post(add, {**data, "path": "/etc"}).content.decode()
    assert "There is no such folder below" in page
    assert client.post(add, {**data, "label_source": "tea leaves"}).status_code == 200
    assert not WatchedFolder.objects.exists()
    assert client.post(add, data).status_code == 302
    assert WatchedFolder.objects.get().path == str(inbox)
    page = client.get(reverse("admin:ingest_watchedfolder_changelist")).content.decode()
    assert str(inbox) in page
