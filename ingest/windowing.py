"""From decoded DICOM pixels to the grey picture that a radiologist would see first.

The pipeline is that of PS3.4 N.2: Modality LUT, then VOI LUT or window, then MONOCHROME1.
"""

from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from ingest.functional_groups import macro_items
from ingest.image_file import luma, scale_to_bytes, stretch

LUT_SEQUENCES = ("ModalityLUTSequence", "VOILUTSequence")
DISPLAY_KEYWORDS = (
    *LUT_SEQUENCES, "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "PixelRepresentation", "BitsStored",
)  # fmt: skip


def to_grey(pixels: NDArray[Any], ds: Dataset, index: int, assumptions: list[str]) -> NDArray[np.uint8]:
    """uint8 (rows, columns) of one decoded frame: `pixels` is (rows, columns) or RGB (rows, columns, 3).

    What had to be assumed is added to `assumptions` as sentences.
    """
    photometric = text_of(ds, "PhotometricInterpretation")
    if photometric == "PALETTE COLOR" and pixels.ndim == 2:
        try:
            return _palette_to_grey(pixels, ds)
        except Exception:  # malformed palettes come in many kinds
            assumptions.append("The palette could not be applied; the stored values are shown.")
            return stretch(pixels)
    if pixels.ndim == 3:
        return scale_to_bytes(luma(pixels), 0, float(2 ** integer_of(ds, "BitsStored", 8) - 1))
    if integer_of(ds, "BitsStored", 8) == 1:
        grey = (pixels > 0).astype(np.uint8) * np.uint8(255)
    else:
        grey = _windowed(pixels, ds, _display_attributes(ds, index), assumptions)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _palette_to_grey(pixels: NDArray[Any], ds: Dataset) -> NDArray[np.uint8]:
    grey = luma(apply_color_lut(pixels, ds))
    return scale_to_bytes(grey, 0, 65535 if grey.max() > 255 else 255)  # entries of 8 bits are common in 16


def _windowed(
    pixels: NDArray[Any], ds: Dataset, attributes: Dataset, assumptions: list[str]
) -> NDArray[np.uint8]:
    """Modality LUT, then VOI LUT or window, or a percentile window where there is none."""
    try:
        values = _modality_values(pixels, attributes)
    except Exception:  # malformed lookup tables come in many kinds
        assumptions.append("The Modality LUT could not be applied and was left out.")
        values = pixels
    try:
        if "VOILUTSequence" in attributes:
            if (tables := len(attributes.VOILUTSequence)) > 1:
                assumptions.append(f"Of {tables} VOI LUTs the first was applied.")
            return _voi_lut(values, attributes)
        windows = _windows(attributes)
        for number, (center, width) in enumerate(windows, start=1):
            grey = _window(values, center, width, attributes, exact=pixels.dtype.kind == "f")
            if grey.min() != grey.max() or values.min() == values.max():
                if len(windows) > 1:
                    assumptions.append(f"Of {len(windows)} windows number {number} was applied.")
                return grey
        if windows:
            assumptions.append("The window given shows nothing of this image.")
    except Exception:  # likewise
        assumptions.append("The VOI LUT or window could not be applied.")
    assumptions.append("No window was given; the 1st to 99th percentile of the values is shown.")
    return stretch(values, _padding(pixels, ds))


def _modality_values(pixels: NDArray[Any], attributes: Dataset) -> NDArray[Any]:
    if "ModalityLUTSequence" in attributes:
        return apply_modality_lut(pixels, attributes)
    if "RescaleSlope" not in attributes or "RescaleIntercept" not in attributes:
        return pixels
    values = pixels.astype(np.float32)
    values *= np.float32(attributes.RescaleSlope)
    values += np.float32(attributes.RescaleIntercept)
    return values


def _voi_lut(values: NDArray[Any], attributes: Dataset) -> NDArray[np.uint8]:
    bits = int(attributes.VOILUTSequence[0].LUTDescriptor[2]) or 16
    return scale_to_bytes(apply_voi_lut(values, attributes), 0, float(2**bits - 1))


def _windows(attributes: Dataset) -> list[tuple[float, float]]:
    """Center and width of each window that the file gives."""
    if "WindowCenter" not in attributes or "WindowWidth" not in attributes:
        return []
    return list(zip(_numbers(attributes.WindowCenter), _numbers(attributes.WindowWidth), strict=False))


def _window(
    values: NDArray[Any], center: float, width: float, attributes: Dataset, exact: bool
) -> NDArray[np.uint8]:
    """PS3.3 C.11.2.1.2 and .3; `exact` for floating point, where LINEAR's steps of 1 say nothing."""
    function = text_of(attributes, "VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values.astype(np.float32) - center) / width, -80, 80)
        return scale_to_bytes(255 / (1 + np.exp(exponent)), 0, 255)
    if function == "LINEAR_EXACT" or exact:
        return scale_to_bytes(values, center - width / 2, center + width / 2)
    span = max(width - 1, 1.0)
    low = center - 0.5 - span / 2
    return scale_to_bytes(values, low, low + span)


def _padding(pixels: NDArray[Any], ds: Dataset) -> NDArray[np.bool_] | None:
    """Where the pixels are padding; a value written with the wrong sign is read with the pixels' own."""
    first = ds.get("PixelPaddingValue")
    last = ds.get("PixelPaddingRangeLimit", first)
    if not isinstance(first, int) or not isinstance(last, int) or pixels.dtype.kind == "f":
        return None
    low, high = sorted(int(value) for value in np.array([first, last]).astype(pixels.dtype))
    return np.asarray((pixels >= low) & (pixels <= high))


def _display_attributes(ds: Dataset, index: int) -> Dataset:
    """What the pipeline asks for and has a value: by the functional groups, else in the data set itself."""
    found = Dataset()
    found.set_original_encoding(*ds.original_encoding)  # lookup tables may be bytes
    groups = ("FrameVOILUTSequence", "PixelValueTransformationSequence")
    for source in [*chain.from_iterable(macro_items(ds, index, name) for name in groups), ds]:
        for keyword in DISPLAY_KEYWORDS:
            if keyword not in found and keyword in source and _is_given(source, keyword):
                found[keyword] = source[keyword]
    return found


def _is_given(source: Dataset, keyword: str) -> bool:
    value = source[keyword].value
    if keyword in LUT_SEQUENCES:
        return bool(value) and bool(value[0].get("LUTData")) and bool(value[0].get("LUTDescriptor"))
    return value not in (None, "", [])


def _numbers(value: Any) -> list[float]:
    return [float(each) for each in (value if isinstance(value, (list, MultiValue)) else [value])]


def text_of(ds: Dataset, keyword: str) -> str:
    """An attribute as text of at most 64 characters; empty where it is missing."""
    value = ds.get(keyword)
    return "" if value is None else storable_text(value)


def storable_text(value: Any) -> str:
    """Text of at most 64 characters that a database and a JSON document take."""
    return str(value).encode("utf-8", "replace").decode().replace("\x00", "").strip()[:64]


def integer_of(ds: Dataset, keyword: str, default: int) -> int:
    """An attribute as an integer; the default where it is missing or none."""
    try:
        return int(ds.get(keyword) if ds.get(keyword) is not None else default)
    except (TypeError, ValueError):
        return default
