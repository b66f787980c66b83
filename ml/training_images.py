"""What a training run learns from: labelled images, split by patient or volume into two parts."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from django.core.files.storage import default_storage
from numpy.typing import NDArray

from ingest.models import Dataset, Image, ImageQuerySet
from ingest.renditions import RENDITION_SIZE, decode_rendition

VALIDATION_SHARE = 0.12  # of each organ's images
IN_MEMORY_BYTES = 2 * 2**30
READERS = 4  # threads


class TrainingError(Exception):
    """A training that cannot be done; its text is a sentence for the user."""


@dataclass(frozen=True)
class Selection:
    """The images of a run, fixed when it starts, so that a resumed run goes on with the same ones.

    The last three lists have one entry per image, those to learn from first, those to validate with after
    them. A modality of -1 is not known.
    """

    organ_names: list[str]
    modality_codes: list[str]
    learning: int  # how many images are learnt from
    renditions: list[str]
    organs: list[int]
    modalities: list[int]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)))
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> "Selection | None":
        return cls(**json.loads(path.read_text())) if path.exists() else None


def images_to_learn_from(datasets: Iterable[Dataset]) -> ImageQuerySet:
    """Labelled images of these data sets (of all when there are none) that are not held out for testing."""
    chosen = list(datasets)
    images = Image.objects.for_training()
    return images.filter(dataset__in=chosen) if chosen else images


def enough_to_learn_from(datasets: Iterable[Dataset]) -> None:
    """Raises TrainingError unless the images show at least two organs."""
    organs = images_to_learn_from(datasets).order_by().values_list("organ__name", flat=True).distinct()[:2]
    if not organs:
        raise TrainingError("No image is labelled for training. Label images of at least two organs first.")
    if len(organs) == 1:
        raise TrainingError(
            f"All images labelled for training show one organ ({organs[0]}). "
            "Label images of at least two organs first."
        )


def select_images(datasets: Iterable[Dataset]) -> Selection:
    """Raises TrainingError unless the images show at least two organs."""
    chosen = list(datasets)
    enough_to_learn_from(chosen)
    rows = list(
        images_to_learn_from(chosen)
        .order_by("pk")
        .values_list("rendition", "organ__name", "modality_id", "group_key")
    )
    organ_names = sorted({row[1] for row in rows})
    modality_codes = sorted({row[2] for row in rows if row[2]})
    held_out = validation_groups([(row[1], row[3]) for row in rows])
    rows.sort(key=lambda row: row[3] in held_out)
    return Selection(
        organ_names=organ_names,
        modality_codes=modality_codes,
        learning=sum(row[3] not in held_out for row in rows),
        renditions=[row[0] for row in rows],
        organs=[organ_names.index(row[1]) for row in rows],
        modalities=[modality_codes.index(row[2]) if row[2] else -1 for row in rows],
    )


def validation_groups(images: list[tuple[str, str]]) -> set[str]:
    """Groups held out for validation, from the (organ, group key) of every image.

    About VALIDATION_SHARE of each organ's images; an organ always keeps at least half of its images to learn
    from. Groups are taken in the order of their hash: a later run with more images holds out mostly the same.
    """
    total = Counter(organ for organ, _ in images)
    learning = Counter(total)
    groups: dict[str, Counter[str]] = defaultdict(Counter)  # images by organ in each group
    for organ, group in images:
        groups[group][organ] += 1
    held_out: set[str] = set()
    for group in sorted(groups, key=lambda key: hashlib.sha256(key.encode()).digest()):
        sizes = groups[group]
        wanted = any(total[organ] - learning[organ] < VALIDATION_SHARE * total[organ] for organ in sizes)
        if wanted and all(learning[organ] - size >= total[organ] / 2 for organ, size in sizes.items()):
            held_out.add(group)
            learning.subtract(sizes)
    return held_out


def read_renditions(names: list[str], folder: Path, on_read: Callable[[int], None]) -> NDArray[np.uint8]:
    """uint8 (len(names), 256, 256): in memory, or where that is too much in a file of `folder`.

    `on_read` is told how many have been read. Raises TrainingError when a file is missing.
    """
    shape = (len(names), RENDITION_SIZE, RENDITION_SIZE)
    if np.prod(shape) <= IN_MEMORY_BYTES:
        renditions = np.empty(shape, np.uint8)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        renditions = np.lib.format.open_memmap(folder / "renditions.npy", "w+", np.uint8, shape)

    def read(position: int) -> None:
        try:
            with default_storage.open(names[position]) as file:
                renditions[position] = decode_rendition(file)
        except FileNotFoundError as missing:
            raise TrainingError("The file of an image is missing from the storage; see the log.") from missing

    with ThreadPoolExecutor(READERS) as readers:
        try:
            for count, _ in enumerate(readers.map(read, range(len(names))), 1):
                on_read(count)
        except BaseException:
            readers.shutdown(wait=False, cancel_futures=True)
            raise
    return renditions
