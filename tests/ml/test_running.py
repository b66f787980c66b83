"""Training runs: from a row to a model version, whatever happens on the way."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from django.conf import settings
from django.core.files.storage import default_storage
from django.db import connection

from ingest.models import Dataset, Image, Split
from ml.locks import lock_run, unlock_run
from ml.models import ModelVersion, RunStatus, TrainingRun, VersionStatus
from ml.recipes import RECIPES
from ml.running import execute, resume
from ml.serving import checkpoint_dir
from ml.training_images import select_images, validation_groups
from tests.factories import make_image
from tests.processes import ROOT, environment, wait_until

TINY = {"channels": (4, 4, 4, 4, 4), "fc2": 32, "fc3": 32}


@pytest.fixture
def images(db: None) -> list[Image]:
    return [make_image(seed, organ=("brain", "chest")[seed % 2], modality="CT") for seed in range(20)]


def make_run(**fields: Any) -> TrainingRun:
    return TrainingRun.objects.create(**{"epochs": 2, "device": "cpu", **fields})


def train(run: TrainingRun, **options: Any) -> TrainingRun:
    execute(run.pk, sizes=TINY, **options)
    run.refresh_from_db()
    return run


class stop_after:
    """An interruption once this many steps are done."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seen: set[tuple[int, int]] = set()

    def update(self, run: TrainingRun) -> None:
        if "step" in run.progress:
            self.seen.add((run.progress["epoch"], run.progress["step"]))

    def interrupted(self) -> bool:
        return len(self.seen) >= self.steps


def test_run_makes_a_version_that_describes_images(images: list[Image]) -> None:
    run = train(make_run())

    version = ModelVersion.objects.get()
    assert (run.status, run.error, run.fraction_done) == (RunStatus.SUCCEEDED, "", 1.0)
    assert [epoch["epoch"] for epoch in run.history] == [1, 2]
    assert run.started_at is not None
    assert run.finished_at is not None
    assert (version.training_run, version.status) == (run, VersionStatus.TRAINED)
    assert (version.organs, version.modalities) == (["brain", "chest"], [])
    assert version.metrics["training_images"] + version.metrics["validation_images"] == 20
    assert 0 <= version.metrics["val_accuracy"] <= 1
    assert sorted(default_storage.listdir(version.checkpoint)[1]) == ["model.json", "model.safetensors"]
    assert not run.resume_dir.exists()

    from ml.checkpoint import load_checkpoint
    from ml.inference import ImageDescriber

    seen = ImageDescriber.from_checkpoint(checkpoint_dir(version)).describe(np.zeros((1, 256, 256), np.uint8))
    assert (seen.fc1.shape, seen.projection.shape) == ((1, 4096), (1, 512))
    checkpoint = load_checkpoint(checkpoint_dir(version))
    assert checkpoint.training == RECIPES["default"].as_json() | {"augmentation": ANY}
    assert checkpoint.calibration.organ_temperature != 1.0
    assert checkpoint.calibration.energy_threshold is not None
    assert checkpoint.calibration.distance_threshold is not None
    assert checkpoint.learnt_in == {"brain": ["CT"], "chest": ["CT"]}


def test_run_of_chosen_datasets_learns_from_them_alone(images: list[Image]) -> None:
    other = Dataset.objects.create(name="other")
    make_image(100, organ="liver", dataset=other)
    run = make_run(epochs=1)
    run.datasets.set([images[0].dataset])

    train(run)

    assert ModelVersion.objects.get().organs == ["brain", "chest"]


def test_two_modalities_get_a_head_of_their_own(images: list[Image]) -> None:
    for seed in range(100, 110):
        make_image(seed, organ="brain", modality="MR")
        make_image(seed + 100, organ="chest", modality=None)

    train(make_run(epochs=1))

    from ml.checkpoint import load_checkpoint

    version = ModelVersion.objects.get()
    assert version.modalities == ["CT", "MR"]
    # Of some chests the modality is not known: they may be in any.
    assert load_checkpoint(checkpoint_dir(version)).learnt_in == {"brain": ["CT", "MR"]}


def test_images_held_out_for_testing_and_unlabelled_ones_are_left_out(images: list[Image]) -> None:
    make_image(100, organ="liver", split=Split.TEST)
    make_image(101, organ=None)

    selection = select_images([])

    assert selection.organ_names == ["brain", "chest"]
    assert len(selection.renditions) == 20


def test_a_group_is_never_on_both_sides() -> None:
    images = [("brain", f"b{n // 4}") for n in range(80)] + [("chest", f"c{n // 4}") for n in range(80)]
    images += [("liver", "one patient")] * 10

    held_out = validation_groups(images)

    for organ in ("brain", "chest"):
        share = sum(group in held_out for name, group in images if name == organ) / 80
        assert 0.12 <= share <= 0.2
    assert "one patient" not in held_out


@pytest.mark.parametrize(
    ("organs", "sentence"),
    [
        ([], "No image is labelled for training. Label images of at least two organs first."),
        (["brain"], "All images labelled for training show one organ (brain). Label images of at least two"),
    ],
)
def test_too_few_organs_fail_with_a_sentence(db: None, organs: list[str], sentence: str) -> None:
    for organ in organs:
        make_image(organ=organ)

    run = train(make_run())

    assert run.status == RunStatus.FAILED
    assert run.error.startswith(sentence)
    assert not ModelVersion.objects.exists()


def test_missing_file_fails_with_a_sentence(images: list[Image]) -> None:
    images[3].rendition.delete(save=False)

    run = train(make_run())

    assert run.status == RunStatus.FAILED
    assert "missing from the storage" in run.error


def test_unexpected_failure_is_told_without_its_detail(images: list[Image], caplog: Any) -> None:
    Path(settings.MEDIA_ROOT, images[3].rendition.name).write_bytes(b"not a picture")

    run = train(make_run())

    assert run.status == RunStatus.FAILED
    assert run.error == "The training failed. The administrator finds the cause in the log."
    assert "UnidentifiedImageError" in caplog.text


def test_run_that_is_cut_off_again_and_again_fails(images: list[Image]) -> None:
    run = train(make_run(status=RunStatus.RUNNING, progress={"starts": 5}))

    assert run.status == RunStatus.FAILED
    assert run.error.startswith("The training was cut off 5 times")


def test_cancelled_run_stops_and_leaves_nothing_behind(images: list[Image]) -> None:
    run = make_run(epochs=1000)

    def cancel(current: TrainingRun) -> None:
        if current.progress.get("epoch") == 2:
            TrainingRun.objects.get(pk=run.pk).cancel()

    train(run, on_update=cancel)

    assert run.status == RunStatus.CANCELLED
    assert len(run.history) < 1000
    assert not run.resume_dir.exists()
    assert not ModelVersion.objects.exists()


def test_cancelled_run_is_not_started(images: list[Image]) -> None:
    run = make_run()
    assert run.cancel()
    assert not run.cancel()

    assert train(run).status == RunStatus.CANCELLED
    assert run.history == []


def test_finished_run_is_not_trained_again(images: list[Image]) -> None:
    run = train(make_run(epochs=1))

    train(run)

    assert ModelVersion.objects.count() == 1


def test_interrupted_run_goes_on_where_it_was(images: list[Image]) -> None:
    run = make_run(epochs=6)
    stop = stop_after(3)
    train(run, on_update=stop.update, interrupted=stop.interrupted)
    assert run.status == RunStatus.CANCELLED
    assert (run.resume_dir / "state.json").exists()
    make_image(100, organ="liver")  # came in since; the run goes on with what it began with

    resume(run)
    again = stop_after(1000)
    train(run, on_update=again.update)

    assert run.status == RunStatus.SUCCEEDED
    assert min(again.seen) >= max(stop.seen)  # it first tells where it was
    assert len(again.seen | stop.seen) == 6
    assert [epoch["epoch"] for epoch in run.history] == [1, 2, 3, 4, 5, 6]
    assert ModelVersion.objects.get().organs == ["brain", "chest"]


def test_interrupted_run_starts_anew_when_its_images_are_gone(images: list[Image]) -> None:
    run = make_run(epochs=3)
    stop = stop_after(1)
    train(run, on_update=stop.update, interrupted=stop.interrupted)
    images[0].delete()

    resume(run)
    train(run)

    metrics = ModelVersion.objects.get().metrics
    assert metrics["training_images"] + metrics["validation_images"] == 19


def test_run_that_asks_for_it_goes_into_service(images: list[Image]) -> None:
    train(make_run(epochs=1, activate=True))

    assert ModelVersion.objects.get().status == VersionStatus.PREPARING


@pytest.fixture
def second_session(transactional_db: None) -> Any:
    other = connection.copy()
    yield other
    other.close()


def test_run_of_another_worker_is_left_alone(second_session: Any) -> None:
    run = make_run()
    with second_session.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(1702, %s)", [run.pk])

    assert train(run).status == RunStatus.QUEUED

    second_session.close()
    wait_until(lambda: lock_run(run.pk), "the lock ends with the session")
    unlock_run(run.pk)


WORKER = """
import django; django.setup()
from ml.running import execute
execute({run}, sizes={sizes})
"""


@pytest.mark.usefixtures("transactional_db")
def test_killed_worker_is_replaced(tmp_path: Path) -> None:
    for seed in range(20):
        make_image(seed, organ=("brain", "chest")[seed % 2])
    run = make_run(epochs=10_000)
    worker = start_worker(run)
    wait_until(lambda: TrainingRun.objects.get(pk=run.pk).progress.get("epoch"), "the first epoch")
    assert train(run).status == RunStatus.RUNNING  # the worker has it

    worker.send_signal(signal.SIGKILL)
    worker.wait()
    wait_until(lambda: lock_run(run.pk), "the lock")
    unlock_run(run.pk)
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING
    TrainingRun.objects.filter(pk=run.pk).update(epochs=1)

    assert train(run).status == RunStatus.SUCCEEDED


def start_worker(run: TrainingRun) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WORKER.format(run=run.pk, sizes=TINY)]
    return subprocess.Popen(command, cwd=ROOT, env=environment())
