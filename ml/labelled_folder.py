"""A folder of images with a manifest.csv, read as arrays: what experiments learn from and ask with."""

import csv
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest.reading import RejectedFile, read_image
from ingest.renditions import RENDITION_SIZE, decode_rendition, network_rendition


@dataclass(frozen=True)
class LabelledFolder:
    """Entry n of each array is about image n. Organs and modalities are positions in the lists of names."""

    organ_names: list[str]
    modality_codes: list[str]
    renditions: NDArray[np.uint8]  # (N, 256, 256), as the product would store them
    organ: NDArray[np.int64]  # (N,)
    modality: NDArray[np.int64]  # (N,), -1 where not known
    group: NDArray[np.str_]  # patient or volume; the path where the manifest tells none
    source: NDArray[np.str_]  # where the image came from; "" where the manifest does not tell
    split: NDArray[np.str_]  # "train", "test" or ""
    skipped: tuple[str, ...] = ()  # why files were left out, a sentence each

    def __len__(self) -> int:
        return len(self.organ)

    def part(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> "LabelledFolder":
        """Only these images; the names, and so the numbers of the labels, stay."""
        return replace(
            self,
            renditions=self.renditions[chosen],
            organ=self.organ[chosen],
            modality=self.modality[chosen],
            group=self.group[chosen],
            source=self.source[chosen],
            split=self.split[chosen],
        )


def read_labelled_folder(
    folder: Path,
    organ_names: list[str] | None = None,
    modality_codes: list[str] | None = None,
    on_read: Callable[[int, int], None] = lambda done, total: None,
) -> LabelledFolder:
    """Read the images that `manifest.csv` names (path and organ; modality, group_id, source, split if there).

    Of a multi-frame file the middle frame is taken; a file that cannot be read is skipped, with its reason.
    With names given, labels count along them, and what they lack is added at their end. Raises OSError where
    there is no manifest, ValueError where it lacks a column.
    """
    with (folder / "manifest.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"path", "organ"} <= rows[0].keys():
        raise ValueError(
            f"{folder / 'manifest.csv'} needs the columns path and organ, and at least one image."
        )
    organs = with_new_names(organ_names or [], [row["organ"] for row in rows])
    modalities = with_new_names(modality_codes or [], [row.get("modality") or "" for row in rows])
    renditions = np.empty((len(rows), RENDITION_SIZE, RENDITION_SIZE), np.uint8)

    def read(position: int) -> str:
        try:
            renditions[position] = rendition_of(folder / rows[position]["path"])
        except (RejectedFile, OSError) as error:
            return f"{rows[position]['path']}: {error}"
        return ""

    problems = []
    with ThreadPoolExecutor() as readers:
        for problem in readers.map(read, range(len(rows))):
            problems.append(problem)
            on_read(len(problems), len(rows))

    def column(name: str, otherwise: str = "") -> NDArray[np.str_]:
        return np.array([row.get(name) or row.get(otherwise) or "" for row in rows], np.str_)

    everything = LabelledFolder(
        organ_names=organs,
        modality_codes=modalities,
        renditions=renditions,
        organ=np.array([organs.index(row["organ"]) for row in rows], np.int64),
        modality=np.array(
            [modalities.index(row["modality"]) if row.get("modality") else -1 for row in rows], np.int64
        ),
        group=column("group_id", "path"),
        source=column("source"),
        split=column("split"),
        skipped=tuple(problem for problem in problems if problem),
    )
    if not everything.skipped:
        return everything
    return everything.part(np.array([not problem for problem in problems]))


def with_new_names(names: list[str], found: list[str]) -> list[str]:
    return [*names, *sorted(set(found) - set(names) - {""})]


def rendition_of(path: Path) -> NDArray[np.uint8]:
    """uint8 (256, 256) of a DICOM or picture file, as importing it would store. Raises RejectedFile."""
    image = read_image(path.read_bytes(), middle_frame_only=True)
    return decode_rendition(io.BytesIO(network_rendition(image.frames[0].pixels)))
