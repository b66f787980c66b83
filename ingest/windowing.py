"""From decoded DICOM pixels to what a person sees: the grey-scale pipeline of PS3.4 N.2.

Modality LUT, then VOI LUT or window, then MONOCHROME1; colour becomes grey.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from ingest.image_file import luma, scale_to_bytes, stretch

GREY_SCALE_ATTRIBUTES = (
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "PixelRepresentation",
    "BitsStored",
)


def to_grey(pixels: NDArray[Any], ds: Dataset, index: int, assumptions: list[str]) -> NDArray[np.uint8]:
    """uint8 (rows, columns) of one decoded frame."""
    photometric = text_of(ds, "PhotometricInterpretation")
    if photometric == "PALETTE COLOR" and "RedPaletteColorLookupTableData" in ds:
        return _colour_to_grey(apply_color_lut(pixels, ds))
    if pixels.ndim == 3:
        return _colour_to_grey(pixels)
    if integer_of(ds, "BitsStored", 8) == 1:
        return (pixels > 0).astype(np.uint8) * np.uint8(255)
    grey = _window(pixels, ds, index, assumptions)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _colour_to_grey(rgb: NDArray[Any]) -> NDArray[np.uint8]:
    grey = luma(rgb)
    if rgb.dtype.itemsize > 1:
        return scale_to_bytes(grey, 0, 65535 if grey.max() > 255 else 255)
    return np.asarray(np.clip(grey + 0.5, 0, 255), np.uint8)


def _window(pixels: NDArray[Any], ds: Dataset, index: int, assumptions: list[str]) -> NDArray[np.uint8]:
    """Modality LUT, then VOI LUT or window of this frame, or a percentile window where there is none."""
    source = _with_functional_groups(ds, index)
    padding = _padding(pixels, ds)
    try:
        values = apply_modality_lut(pixels, source)
    except Exception:  # malformed lookup tables come in many kinds
        assumptions.append("The Modality LUT could not be applied and was left out.")
        values = pixels
    try:
        if source.get("VOILUTSequence"):
            return _voi_lut(values, source)
        if source.get("WindowCenter") not in (None, "") and source.get("WindowWidth") not in (None, ""):
            return _linear_or_sigmoid_window(values, source)
    except Exception:  # likewise
        assumptions.append("The VOI LUT or window could not be applied.")
    assumptions.append("No window was given; the 1st to 99th percentile of the values is shown.")
    return stretch(values, padding)


def _voi_lut(values: NDArray[Any], ds: Dataset) -> NDArray[np.uint8]:
    bits = int(ds.VOILUTSequence[0].LUTDescriptor[2]) or 16
    return scale_to_bytes(apply_voi_lut(values, ds), 0, float(max(2**bits - 1, 1)))


def _linear_or_sigmoid_window(values: NDArray[Any], ds: Dataset) -> NDArray[np.uint8]:
    """PS3.3 C.11.2.1.2 and .3; the values' percentiles where the window would show one flat grey."""
    center, width = _first_number(ds.WindowCenter), max(_first_number(ds.WindowWidth), 1.0)
    function = text_of(ds, "VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        grey = scale_to_bytes(255 / (1 + np.exp(-4 * (values.astype(np.float32) - center) / width)), 0, 255)
    else:
        offset, span = (0.5, max(width - 1, 1.0)) if function == "LINEAR" else (0.0, width)
        low = center - offset - span / 2
        grey = scale_to_bytes(values, low, low + span)
    return stretch(values) if grey.min() == grey.max() and values.min() != values.max() else grey


def _padding(pixels: NDArray[Any], ds: Dataset) -> NDArray[np.bool_] | None:
    if "PixelPaddingValue" not in ds or not isinstance(ds.PixelPaddingValue, int):
        return None
    first, last = ds.PixelPaddingValue, integer_of(ds, "PixelPaddingRangeLimit", ds.PixelPaddingValue)
    return np.asarray((pixels >= min(first, last)) & (pixels <= max(first, last)))


def _with_functional_groups(ds: Dataset, index: int) -> Dataset:
    """The grey-scale attributes of one frame, its own before the shared (PS3.3 C.7.6.16)."""
    if "SharedFunctionalGroupsSequence" not in ds and "PerFrameFunctionalGroupsSequence" not in ds:
        return ds
    merged = Dataset()
    for keyword in GREY_SCALE_ATTRIBUTES:
        if keyword in ds:
            merged[keyword] = ds[keyword]
    shared, frames = ds.get("SharedFunctionalGroupsSequence"), ds.get("PerFrameFunctionalGroupsSequence")
    for group in [*(shared or [])[:1], *(frames or [])[index : index + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(name) or [])[:1]:
                merged.update(item)
    return merged


def _first_number(value: Any) -> float:
    return float(value[0] if isinstance(value, (list, MultiValue)) else value)


def text_of(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    return "" if value is None else str(value).replace("\x00", "").strip()[:64]


def integer_of(ds: Dataset, keyword: str, default: int) -> int:
    try:
        return int(ds.get(keyword) if ds.get(keyword) is not None else default)
    except (TypeError, ValueError):
        return default
