"""What the first start of `manage.py run` makes, and what a later one takes up again."""

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.contrib.auth import authenticate
from django.core.management import CommandError
from django.db import connection
from rich.console import Console

from cbmir_site import first_start
from ingest.importing import import_queued
from ingest.models import FileState, Image, UploadBatch, UploadedFile
from ingest.receiving import open_batch, receive_file
from ml.models import ModelVersion, RunStatus, TrainingRun, VersionStatus
from search.roles import create_roles
from tests.factories import dicom_bytes, make_image, make_model_version, make_pixels, png_bytes
from tests.installation import Installation
from tests.processes import ROOT, wait_until


def write_folder(folder: Path, images: int = 4) -> Path:
    """Pictures of brains and DICOM files of chests, in folders of these names."""
    for seed in range(images):
        organ = ("brain", "chest")[seed % 2]
        (folder / organ).mkdir(parents=True, exist_ok=True)
        pixels = make_pixels(seed, organ)
        if organ == "brain":
            (folder / organ / f"{seed}.png").write_bytes(png_bytes(pixels))
        else:
            content = dicom_bytes(pixels, seed, PatientID=f"P{seed}", BodyPartExamined="CHEST")
            (folder / organ / f"{seed}.dcm").write_bytes(content)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "Ward 7")


def fill(data: Path | None, watch: Callable[[], None] = lambda: None) -> str:
    """What `fill` prints."""
    console = Console(file=StringIO(), width=200)
    first_start.fill(console, data, watch)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.django_db
def test_accounts_are_made_and_printed_once() -> None:
    create_roles()
    console = Console(file=StringIO(), width=100)
    first_start.create_first_accounts(console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    passwords = dict(re.findall(r"│ (\w+) +│ \w+ +│ (\S+) +│", printed))
    assert set(passwords) == {"clinician", "curator", "admin"}
    for name, password in passwords.items():
        assert authenticate(username=name, password=password)
    first_start.create_first_accounts(console)
    assert console.file.getvalue() == printed  # type: ignore[attr-defined]


def test_a_folder_is_imported_and_trained_on_once(data: Path, model_version: ModelVersion) -> None:
    fill(data)
    assert Image.objects.filter(dataset__name="ward-7").count() == 4
    assert sorted(Image.objects.values_list("organ__name", flat=True)) == ["brain"] * 2 + ["chest"] * 2
    runs = TrainingRun.objects.order_by("pk").values_list("max_seconds", "activate")
    assert list(runs) == [(first_start.FIRST_TRAINING_SECONDS, True), (None, True)]

    fill(data)
    fill(None)
    assert (UploadedFile.objects.count(), TrainingRun.objects.count()) == (4, 2)


def test_a_file_that_came_since_is_imported(data: Path, model_version: ModelVersion) -> None:
    fill(data)
    write_folder(data, images=5)
    fill(data)
    assert (Image.objects.count(), TrainingRun.objects.count()) == (5, 2)


def test_an_interrupted_import_is_finished(data: Path, model_version: ModelVersion) -> None:
    TrainingRun.objects.create(status=RunStatus.SUCCEEDED)
    batch = open_batch("ward-7", "folder", None)
    receive_file(batch, "brain/0.png", (data / "brain" / "0.png").read_bytes())  # and killed
    fill(data)
    assert Image.objects.count() == 4
    import_queued()  # what the ingest worker does with the rest of the killed import
    fill(data)
    assert (Image.objects.count(), UploadedFile.objects.count()) == (4, 5)
    assert not UploadedFile.objects.unfinished().exists()


def test_a_file_whose_path_names_a_patient_is_no_missing_file(
    tmp_path: Path, model_version: ModelVersion
) -> None:
    folder = tmp_path / "in" / "PID-4711"
    folder.mkdir(parents=True)
    (folder / "1.dcm").write_bytes(dicom_bytes())
    fill(folder.parent)
    assert UploadedFile.objects.get().path == "–/1.dcm"
    fill(folder.parent)
    assert UploadBatch.objects.count() == 1


def test_a_manifest_is_no_missing_file(data: Path, model_version: ModelVersion) -> None:
    (data / "manifest.csv").write_text("path,organ\nbrain/0.png,heart\nbrain/2.png,liver\n")
    fill(data)
    assert set(Image.objects.values_list("organ__name", flat=True)) == {"heart", "liver", None}
    count = UploadedFile.objects.count()
    fill(data)
    assert UploadedFile.objects.count() == count


def test_a_name_of_other_letters_is_no_obstacle(tmp_path: Path, model_version: ModelVersion) -> None:
    fill(write_folder(tmp_path / "画像", images=2))
    assert Image.objects.filter(dataset__name="data").count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("files", [{}, {"notes.txt": b"none", "brain/a.png": b"not a picture"}])
def test_a_folder_without_images_is_told_every_time(tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = tmp_path / "nothing"
    (folder / "brain").mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for _ in range(2):
        with pytest.raises(CommandError, match="There is no image that can be read in the folder"):
            fill(folder)
    assert UploadedFile.objects.filter(state=FileState.REJECTED).count() == len(files)
    assert not TrainingRun.objects.exists()


def test_without_a_folder_the_demo_is_drawn(
    model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_start, "DEMO_PATIENTS", 1)
    monkeypatch.setattr(first_start, "DEMO_SLICES", 1)
    fill(None)
    assert set(Image.objects.values_list("dataset__name", flat=True)) == {"demo"}
    assert not Image.objects.filter(organ=None).exists()
    assert TrainingRun.objects.get().max_seconds == first_start.DEMO_TRAINING_SECONDS


def test_a_collection_of_ones_own_gets_no_demo(model_version: ModelVersion) -> None:
    make_image(1)
    fill(None)
    assert Image.objects.count() == 1
    assert TrainingRun.objects.count() == 1


@pytest.mark.django_db
def test_a_failed_first_training_is_told() -> None:
    make_image(1)
    TrainingRun.objects.create(status=RunStatus.FAILED, error="All images show one organ.")
    assert "No model is in service. All images show one organ." in fill(None)


@pytest.mark.django_db
def test_nothing_is_awaited_where_no_version_is_asked_for() -> None:
    make_image(1)
    TrainingRun.objects.create(status=RunStatus.SUCCEEDED)
    make_model_version(VersionStatus.TRAINED)
    assert "No model is in service." in fill(None)


@pytest.mark.django_db(transaction=True)
def test_following_the_training_outlives_the_database() -> None:
    make_image(1)
    TrainingRun.objects.create(status=RunStatus.RUNNING)
    calls: list[Any] = []

    def watch() -> None:
        calls.append(None)
        if len(calls) == 2:
            end_session()
        if len(calls) == 4:
            make_model_version()
        assert len(calls) < 100

    fill(None, watch)
    assert ModelVersion.objects.active()


def end_session() -> None:
    """As a killed server does."""
    connection.ensure_connection()
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid])
    other.close()


@pytest.fixture
def installation() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="cbmir-first-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # the embedded PostgreSQL runs as an account of its own under root
        made = Installation(Path(name) / "var")
        made.data_dir.mkdir()
        yield made
        made.kill()


def begin(installation: Installation, data: Path) -> subprocess.Popen[bytes]:
    """Start without waiting."""
    with open(installation.data_dir / "run.out", "wb") as output:
        installation.process = subprocess.Popen(
            [sys.executable, "manage.py", "run", "--port", str(installation.port), "--data", str(data)],
            cwd=ROOT,
            env=installation._env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return installation.process


def test_a_first_start_gets_searchable_though_its_database_is_killed(
    installation: Installation, tmp_path: Path
) -> None:
    run = begin(installation, write_folder(tmp_path / "ward", images=12))
    wait_until(installation.answers, "the page")
    trained = (
        "from ml.models import TrainingRun as T; print(T.objects.filter(progress__has_key='epoch').count())"
    )
    wait_until(lambda: installation.evaluate(trained) != "0", "the first step of the training")
    lock = installation.data_dir / "postgres" / "postmaster.pid"
    psutil.Process(int(lock.read_text().split("\n")[0])).kill()

    wait_until(lambda: "Ready:" in installation.output or run.poll() is not None, "the first model")
    assert "PostgreSQL stopped; starting it again." in installation.output
    assert "No model is in service" not in installation.output
    counts = "from ml.models import ModelVersion as V; v = V.objects.active(); print(v.embeddings.count())"
    assert installation.evaluate(counts) == "12"

    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGINT)  # an impatient person
    run.wait(60)
    assert not installation.processes()


def test_a_folder_without_images_ends_the_run(installation: Installation, tmp_path: Path) -> None:
    run = begin(installation, tmp_path)
    assert run.wait(120) == 1
    assert "There is no image that can be read in the folder" in installation.output
    assert "Traceback" not in installation.output
    assert not installation.processes()
