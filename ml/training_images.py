"""What a training run learns from: labelled images, split by patient or volume into two parts."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from django.core.files.storage import default_storage
from numpy.typing import NDArray

from ingest.models import Dataset, DatasetVersion, Image, ImageQuerySet, Split
from ingest.renditions import RENDITION_SIZE, decode_rendition
from ingest.versions import listed_in, looked_up

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
    deleted: int = 0  # images of frozen versions that are there no more

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


def one_version_each(versions: Iterable[DatasetVersion]) -> None:
    """Raises TrainingError where two are of one data set."""
    seen: set[int | None] = set()
    for version in versions:
        if version.dataset_id in seen:
            raise TrainingError(f"Choose one version of the data set {version.dataset_name}.")
        seen.add(version.dataset_id)


def enough_to_learn_from(datasets: Iterable[Dataset], versions: Sequence[DatasetVersion] = ()) -> None:
    """Raises TrainingError unless the images show at least two organs."""
    one_version_each(versions)
    present = images_as_they_are(datasets, versions).order_by().values_list("organ__name", flat=True)
    listed = (row["organ"] for version in versions for row in rows_to_learn_from(version))
    organs: set[str] = set()
    for organ in chain(present.distinct()[:2], listed):
        organs.add(organ)
        if len(organs) == 2:
            return
    refuse_too_few(organs)


def refuse_too_few(organs: Collection[str]) -> None:
    if not organs:
        raise TrainingError("No image is labelled for training. Label images of at least two organs first.")
    if len(organs) == 1:
        raise TrainingError(
            f"All images labelled for training show one organ ({next(iter(organs))}). "
            "Label images of at least two organs first."
        )


def images_as_they_are(datasets: Iterable[Dataset], versions: Sequence[DatasetVersion]) -> ImageQuerySet:
    """Those to learn from with the labels of now: of data sets of which no version is chosen."""
    chosen = list(datasets)
    if versions and not chosen:
        return Image.objects.none()
    return images_to_learn_from(chosen).exclude(dataset__in=[version.dataset_id for version in versions])


def rows_to_learn_from(version: DatasetVersion) -> Iterator[dict[str, str]]:
    return (row for row in listed_in(version) if row["organ"] and row["split"] != Split.TEST)


def select_images(datasets: Iterable[Dataset], versions: Sequence[DatasetVersion] = ()) -> Selection:
    """Of these versions what they list, with the labels of then; of other data sets what they have now.

    Raises TrainingError unless the images show at least two organs.
    """
    columns = ("rendition", "organ__name", "modality_id", "group_key")
    found = {row[0]: row[1:] for row in images_as_they_are(datasets, versions).values_list("pk", *columns)}
    deleted = 0
    for version in versions:
        images = Image.objects.present().only("sha256", "rendition")
        for row, image in looked_up(rows_to_learn_from(version), images):
            if image is None:
                deleted += 1
            else:
                labels = (row["organ"], row["modality"], row["group_id"])
                found.setdefault(image.pk, (image.rendition.name, *labels))
    rows = [found[pk] for pk in sorted(found)]
    organ_names = sorted({row[1] for row in rows})
    refuse_too_few(organ_names)
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
        deleted=deleted,
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
