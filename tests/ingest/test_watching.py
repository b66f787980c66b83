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
from ingest.tasks import look_at_watched_folders
from ingest.watching import look_at_all
from tests.factories import png_bytes

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


def test_admin_by_role(client_of: ClientOf, inbox: Path) -> None:
    dataset = Dataset.objects.create(name="ward")
    add = reverse("admin:ingest_watchedfolder_add")
    data = {"path": f"{inbox}/", "dataset": dataset.pk, "label_source": "dicom", "is_active": "on"}
    for role, expected in {"curator": 403, "clinician": 302, None: 302}.items():
        assert client_of(role).post(add, data).status_code == expected
    client = client_of("admin")
    page = client.post(add, {**data, "path": "/etc"}).content.decode()
    assert "There is no such folder below" in page
    assert client.post(add, {**data, "label_source": "manifest"}).status_code == 200
    assert not WatchedFolder.objects.exists()
    assert client.post(add, data).status_code == 302
    assert WatchedFolder.objects.get().path == str(inbox)
    page = client.get(reverse("admin:ingest_watchedfolder_changelist")).content.decode()
    assert str(inbox) in page
