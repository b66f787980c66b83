"""Taking a training run from its row to a model version. Imports torch: workers and commands only."""

import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.core.files import File
from django.core.files.storage import default_storage
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Exists, OuterRef
from numpy.typing import NDArray

from ingest.models import Dataset, Image
from ingest.versions import freeze
from ml.calibration import Calibration, fit_calibration, nearest_distances
from ml.checkpoint import Checkpoint, save_checkpoint
from ml.engines import Outputs, TorchEngine
from ml.inference import see
from ml.locks import locked_run
from ml.models import ModelVersion, RunStatus, TrainingRun
from ml.network import NetworkShape, OrganNetwork, device_for, organ_network
from ml.preprocess import Preprocessing
from ml.projection import MOST_SAMPLES, fit_projection
from ml.recipes import RECIPES
from ml.recording import Recorder
from ml.schedule import EpochResult
from ml.training import Stopped, TrainingData, train
from ml.training_images import Selection, TrainingError, read_renditions, select_images

logger = logging.getLogger(__name__)

UNEXPECTED = "The training failed. The administrator finds the cause in the log."
OUT_OF_MEMORY = "The machine ran out of memory."


def execute(
    run_id: int,
    *,
    on_update: Callable[[TrainingRun], None] = lambda run: None,
    interrupted: Callable[[], bool] = lambda: False,
    sizes: dict[str, Any] | None = None,
) -> None:
    """Train a queued run, or go on with one whose worker was killed. How it ended is in its row.

    Does nothing when the run has ended or another worker has it, so it is safe to call at any time.
    `interrupted` stops the run in a state that a later call of `resume` and this goes on from; `sizes` are
    sizes of the network other than the paper's.
    """
    with locked_run(run_id) as locked:
        run = TrainingRun.objects.unfinished().filter(pk=run_id).first()
        if not locked or run is None:
            return
        recorder = Recorder(run, on_update, interrupted)
        try:
            learn(recorder, sizes or {})
        except Stopped:
            if recorder.taken_over:
                return
            recorder.end(RunStatus.CANCELLED)
        except TrainingError as error:
            recorder.end(RunStatus.FAILED, str(error))
        except (OperationalError, InterfaceError):
            raise  # the database is away: the run is taken up again when it is back
        except (MemoryError, torch.OutOfMemoryError):
            logger.exception("Training run %s ran out of memory.", run_id)
            recorder.end(RunStatus.FAILED, OUT_OF_MEMORY)
        except Exception:
            logger.exception("Training run %s failed.", run_id)
            recorder.end(RunStatus.FAILED, UNEXPECTED)
        if not interrupted():
            shutil.rmtree(run.resume_dir, ignore_errors=True)


def resume(run: TrainingRun) -> None:
    """Queue a run again that was stopped; it goes on where it was, if this machine still has its state."""
    run.status, run.error, run.finished_at = RunStatus.QUEUED, "", None
    run.progress = {**run.progress, "starts": 0}
    run.save(update_fields=["status", "error", "finished_at", "progress"])


def learn(recorder: Recorder, sizes: dict[str, Any]) -> None:
    run = recorder.run
    recorder.start()
    check_device(run.device)
    selection = selection_of(run)
    renditions = read_renditions(
        selection.renditions,
        run.resume_dir,
        lambda count: recorder.say(f"Reading images: {count} of {len(selection.renditions)}."),
    )
    learning, validation = parts_of(selection, renditions)
    recipe = RECIPES[run.recipe]
    modalities = (
        selection.modality_codes if recipe.modality_weight and len(selection.modality_codes) > 1 else []
    )
    network, preprocessing, history = train(
        learning,
        validation,
        replace(NetworkShape(len(selection.organ_names), len(modalities)), **sizes),
        recipe,
        organ_network,
        epochs=run.epochs,
        max_seconds=run.max_seconds,
        device=run.device,
        resume_dir=run.resume_dir,
        on_progress=recorder.on_progress,
        should_stop=recorder.should_stop,
    )
    recorder.say("Fitting the projection and the calibration.")
    learnt = see_sample(network, preprocessing, learning, run.device, recorder)
    calibration = Calibration()
    if len(validation):
        held_out = see_sample(network, preprocessing, validation, run.device, recorder)
        calibration = fit_calibration(
            held_out.organ_logits,
            held_out.modality_logits,
            nearest_distances(held_out.fc1, learnt.fc1),
            sample(validation.organs),
            sample(validation.modalities),
        )
    checkpoint = Checkpoint(
        network=network,
        preprocessing=preprocessing,
        projection=fit_projection(learnt.fc1),
        organs=selection.organ_names,
        modalities=modalities,
        recipe=run.recipe,
        training=recipe.as_json(),
        metrics=metrics_of(history, selection),
        calibration=calibration,
        learnt_in=modalities_by_organ(selection),
    )
    recorder.say("Storing the checkpoint.")
    finish(recorder, checkpoint)


def check_device(name: str) -> None:
    try:
        device_for(name)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def selection_of(run: TrainingRun) -> Selection:
    """The images that the run began with; those of the collection as it is now when it has not begun."""
    path = run.resume_dir / "selection.json"
    selection = Selection.load(path)
    if selection is None or not still_there(selection):
        shutil.rmtree(run.resume_dir, ignore_errors=True)
        freeze_datasets(run)
        selection = select_images(run.datasets.all(), list(run.chosen_versions.all()))
        TrainingRun.objects.filter(pk=run.pk).update(deleted_images=selection.deleted)
        selection.save(path)
    return selection


def freeze_datasets(run: TrainingRun) -> None:
    """Keep what is in the data sets that it learns from; of some a version was chosen."""
    versions = list(run.chosen_versions.all())
    run.dataset_versions.add(*versions)
    with_images = Exists(Image.objects.filter(dataset=OuterRef("pk")))
    all_of_them = not versions and not run.datasets.exists()
    chosen = Dataset.objects.filter(with_images) if all_of_them else run.datasets.all()
    for dataset in chosen.filter(trashed_at=None).exclude(versions__in=versions):
        run.dataset_versions.add(freeze(dataset, f"training run {run.pk}"))


def still_there(selection: Selection) -> bool:
    return set(selection.renditions) <= set(Image.objects.values_list("rendition", flat=True))


def parts_of(selection: Selection, renditions: NDArray[np.uint8]) -> tuple[TrainingData, TrainingData]:
    """What to learn from and what to validate with; slices, because the renditions may be a file."""
    organs, modalities = np.array(selection.organs, np.int64), np.array(selection.modalities, np.int64)
    cut = selection.learning
    return (
        TrainingData(renditions[:cut], organs[:cut], modalities[:cut]),
        TrainingData(renditions[cut:], organs[cut:], modalities[cut:]),
    )


def see_sample(
    network: OrganNetwork,
    preprocessing: Preprocessing,
    data: TrainingData,
    device: str,
    recorder: Recorder,
) -> Outputs:
    """What the network sees in at most MOST_SAMPLES evenly spaced images. It comes back to the CPU."""
    seen = see(
        TorchEngine(network, device),
        preprocessing,
        sample(data.renditions),
        lambda: recorder.say("Fitting the projection and the calibration."),
    )
    network.to("cpu")
    return seen


def sample(rows: NDArray[Any]) -> NDArray[Any]:
    return rows[:: max(1, -(-len(rows) // MOST_SAMPLES))]


def modalities_by_organ(selection: Selection) -> dict[str, list[str]]:
    """Of the images that were learnt from; an organ with images of no known modality is left out."""
    pairs = {*zip(selection.organs[: selection.learning], selection.modalities, strict=False)}
    found = {
        name: [code for m, code in enumerate(selection.modality_codes) if (organ, m) in pairs]
        for organ, name in enumerate(selection.organ_names)
        if (organ, -1) not in pairs
    }
    return {name: codes for name, codes in found.items() if codes}


def metrics_of(history: list[EpochResult], selection: Selection) -> dict[str, Any]:
    last = history[-1]
    return {
        "train_loss": last.train_loss,
        "train_accuracy": last.train_accuracy,
        "val_loss": last.val_loss,
        "val_accuracy": last.val_accuracy,
        "val_modality_accuracy": last.val_modality_accuracy,
        "epochs": last.epoch,
        "training_images": selection.learning,
        "validation_images": len(selection.renditions) - selection.learning,
    }


def finish(recorder: Recorder, checkpoint: Checkpoint) -> None:
    """Store the checkpoint, then make it a version in the same transaction that ends the run."""
    run = recorder.run
    folder = f"models/{run.pk}"
    with tempfile.TemporaryDirectory() as temporary:
        save_checkpoint(checkpoint, Path(temporary))
        store_folder(Path(temporary), folder)
    with transaction.atomic():
        recorder.run.progress["message"] = ""
        if not recorder.end(RunStatus.SUCCEEDED):
            raise Stopped
        version = ModelVersion.objects.create(
            training_run=run,
            recipe=run.recipe,
            checkpoint=folder,
            organs=checkpoint.organs,
            modalities=checkpoint.modalities,
            metrics=checkpoint.metrics,
        )
        if run.activate:
            version.request_activation()


def store_folder(source: Path, folder: str) -> None:
    """Copy the files of a local folder into the file storage, over what a killed attempt left there."""
    for path in source.iterdir():
        name = f"{folder}/{path.name}"
        default_storage.delete(name)
        with path.open("rb") as file:
            default_storage.save(name, File(file))
