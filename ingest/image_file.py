"""What reading a file gives, whatever its format."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 100_000_000  # of one frame; a whole-slide level or a bomb beyond that is refused
MAX_BYTES = 2**30  # of one decoded frame or one inflated file

Tags = dict[str, str | int | float | list[str | int | float]]  # by DICOM keyword


class RejectedFile(Exception):
    """A file that cannot be taken in. `sentence` is for the person and names nothing of the patient."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


NOT_AN_IMAGE = ("not_an_image", "This is not a DICOM file and not a PNG, JPEG, TIFF or BMP picture.")


class LeftOut(RejectedFile):
    """A sound file that the data set does not want: a slice that its choice of slices passes over."""


@dataclass(frozen=True)
class Frame:
    """One 2D picture, ready to be looked at."""

    pixels: NDArray[np.uint8]  # (rows, columns), grey, 0 is black
    frame_number: int = 1  # from 1, as in DICOM
    tags: Tags = field(default_factory=dict)  # permitted attributes of this frame alone
    assumptions: tuple[str, ...] = ()  # for this frame alone


@dataclass(frozen=True)
class ReadImage:
    """A file's chosen frames and what it says of itself.

    The identifiers are raw: whoever stores something stores keyed hashes of them.
    """

    file_format: str  # DICOM, PNG, JPEG, TIFF or BMP
    frames: tuple[Frame, ...]
    number_of_frames: int
    bits_stored: int
    modality: str = ""  # DICOM code; pictures have none
    body_part_examined: str = ""
    patient_id: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    transfer_syntax_uid: str = ""
    tags: Tags = field(default_factory=dict)  # the permitted attributes
    text_likely: tuple[str, str] | None = None  # code and sentence: why text may be burned in; of DICOM alone
    assumptions: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return int(self.frames[0].pixels.shape[0])

    @property
    def columns(self) -> int:
        return int(self.frames[0].pixels.shape[1])


def check_size(rows: int, columns: int, bytes_per_pixel: int = 1) -> None:
    """Refuse a picture of absurd size before memory is spent on it."""
    if rows < 1 or columns < 1:
        raise RejectedFile("no_pixel_data", "The image has no rows or no columns.")
    if rows * columns > MAX_PIXELS or rows * columns * bytes_per_pixel > MAX_BYTES:
        raise RejectedFile(
            "too_large",
            f"The image is {columns} x {rows} pixels; more than {MAX_PIXELS // 10**6} million are refused.",
        )


def stretch(
    values: NDArray[Any], ignore: NDArray[np.bool_] | None = None, percentiles: tuple[float, float] = (1, 99)
) -> NDArray[np.uint8]:
    """Map the values between two percentiles linearly to 0..255; `ignore` marks padding."""
    seen = values[~ignore] if ignore is not None and not ignore.all() else values.ravel()
    seen = seen[:: max(1, seen.size // 1_000_000)].astype(np.float32)
    seen = seen[np.isfinite(seen)]
    if seen.size == 0:
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(seen, percentiles)
    if high <= low:
        low, high = float(seen.min()), float(seen.max())
    if high <= low:
        return np.full(values.shape, 128 if high > 0 else 0, np.uint8)
    return scale_to_bytes(values, float(low), float(high))


def scale_to_bytes(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map low..high linearly to 0..255, clipping what lies outside."""
    scaled = values.astype(np.float32)
    if not np.isfinite(scaled.sum()):
        np.nan_to_num(scaled, copy=False)
    scaled -= np.float32(low)  # in place: a frame of 100 million pixels is 400 MB here
    scaled *= np.float32(255.0 / (high - low))
    scaled += np.float32(0.5)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def luma(rgb: NDArray[Any]) -> NDArray[np.float32]:
    """Grey of an RGB picture (..., 3) by ITU-R BT.601, in the picture's own range."""
    return np.asarray(rgb[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))
