"""The networks kept warm in this process, one per model version. Imports torch: workers and commands only."""

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from django.conf import settings
from django.core.files.storage import default_storage

from ingest.renditions import RENDITION_SIZE
from ml import workers
from ml.inference import ImageDescriber
from ml.models import ModelVersion

calls_at_once = 1  # of each network: how many threads calculate side by side; workers may set it
_loading = Lock()


def describer_for(version_id: int) -> ImageDescriber:
    """The describer of a model version, loaded once per process."""
    with _loading:
        return _describer_for(version_id)


def forget_describers() -> None:
    """Where numbers of versions begin anew."""
    _describer_for.cache_clear()


@lru_cache(maxsize=3)
def _describer_for(version_id: int) -> ImageDescriber:
    version = ModelVersion.objects.get(pk=version_id)
    describer = ImageDescriber.from_checkpoint(checkpoint_dir(version), settings.ENGINE, calls_at_once)
    describer.describe(np.zeros((1, RENDITION_SIZE, RENDITION_SIZE), np.uint8))  # the first one takes longer
    workers.engine_in_use = describer.engine.name
    return describer


def checkpoint_dir(version: ModelVersion) -> Path:
    """A local folder with the version's checkpoint, copied from the file storage once per host."""
    made = version.created_at.strftime("%Y%m%d%H%M%S")  # numbers begin anew with a new database
    folder = Path(settings.DATA_DIR) / "checkpoints" / f"{version.pk}-{made}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
        for name in default_storage.listdir(version.checkpoint)[1]:
            with (
                default_storage.open(f"{version.checkpoint}/{name}") as source,
                open(partial / name, "wb") as target,
            ):
                shutil.copyfileobj(source, target)
        try:
            partial.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return folder
