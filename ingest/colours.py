"""The photometric interpretations that DICOM retired in 2001 (PS3.3 C.7.6.3.1.2), uncompressed, as RGB."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import Decoder

RETIRED = ("ARGB", "CMYK", "HSV", "YBR_PARTIAL_422")


def decode_retired(decoder: Decoder, ds: Dataset, index: int) -> NDArray[Any]:
    """One frame as RGB (rows, columns, 3) in the range of its stored bits. Raises what pydicom raises."""
    photometric = ds.PhotometricInterpretation
    samples = 2 if photometric == "YBR_PARTIAL_422" else ds.SamplesPerPixel
    is_planar = samples > 2 and ds.PlanarConfiguration == 1
    as_larger_grey: dict[str, Any] = {
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "rows": ds.Rows * (samples if is_planar else 1),
        "columns": ds.Columns * (1 if is_planar else samples),
    }
    stored, _ = decoder.as_array(ds, index=index, **as_larger_grey)
    white = float(2**ds.BitsStored - 1)
    if photometric == "YBR_PARTIAL_422":
        rgb = _partial_ycc_to_rgb(stored.reshape(ds.Rows, -1, 4).astype(np.float32) / white)
    else:
        shape = (samples, ds.Rows, ds.Columns) if is_planar else (ds.Rows, ds.Columns, samples)
        planes = np.moveaxis(stored.reshape(shape), 0, -1) if is_planar else stored.reshape(shape)
        convert = {"ARGB": _argb_to_rgb, "CMYK": _cmyk_to_rgb, "HSV": _hsv_to_rgb}[photometric]
        rgb = convert(planes.astype(np.float32) / white)
    return np.asarray(np.clip(rgb, 0, 1) * white + 0.5).astype(stored.dtype)


def _argb_to_rgb(argb: NDArray[np.float32]) -> NDArray[np.float32]:
    return argb[..., 1:]


def _cmyk_to_rgb(cmyk: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 - cmyk[..., :3] - cmyk[..., 3:])


def _hsv_to_rgb(hsv: NDArray[np.float32]) -> NDArray[np.float32]:
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    distance = (6 * hue[..., None] + np.array([5, 3, 1], np.float32)) % 6  # of red, green and blue
    return np.asarray(
        value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(distance, 4 - distance), 0, 1))
    )


def _partial_ycc_to_rgb(pairs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of Y1 Y2 Cb Cr: two pixels with one colour, luminance in 16 to 235 of 255 (ITU-R BT.601)."""
    luminance = (pairs[..., :2] * 255 - 16) / 219
    blue, red = np.moveaxis((pairs[..., 2:] * 255 - 128) / 224, -1, 0)
    shifts = np.stack([1.402 * red, -0.344136 * blue - 0.714136 * red, 1.772 * blue], axis=-1)
    return np.asarray(luminance[..., None] + shifts[:, :, None]).reshape(pairs.shape[0], -1, 3)
