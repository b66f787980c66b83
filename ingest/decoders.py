"""imagecodecs (BSD) as a pixel data decoder of pydicom, for every compressed transfer syntax it knows.

pydicom itself does the uncompressed ones, deflated and RLE. Source: DICOM PS3.5 annex A.4.
"""

from typing import Any

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels.common import PhotometricInterpretation as PI
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

JPEG = [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit]
JPEG_LOSSLESS = [uid.JPEGLossless, uid.JPEGLosslessSV1]
JPEG_LS = [uid.JPEGLSLossless, uid.JPEGLSNearLossless]
JPEG_2000 = [uid.JPEG2000Lossless, uid.JPEG2000]
HTJ2K = [uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K]
DECODER_DEPENDENCIES = dict.fromkeys([*JPEG, *JPEG_LOSSLESS, *JPEG_LS, *JPEG_2000, *HTJ2K], ("imagecodecs",))


def is_available(transfer_syntax: str) -> bool:
    return transfer_syntax in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame for pydicom: samples interleaved, colour as the runner then says."""
    pixels = _decode(source, runner)
    if pixels.ndim == 3 and runner.photometric_interpretation in (PI.YBR_ICT, PI.YBR_RCT):
        runner.set_option("photometric_interpretation", PI.RGB)  # the codec has undone the transform
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    bits = 8 * pixels.dtype.itemsize
    runner.set_option("bits_allocated", bits)
    return np.ascontiguousarray(pixels).tobytes()


def _decode(source: bytes, runner: DecodeRunner) -> np.ndarray[Any, Any]:
    syntax = runner.transfer_syntax
    if syntax in JPEG:
        return _decode_jpeg(source, runner)
    if syntax in JPEG_LOSSLESS:
        pixels = imagecodecs.ljpeg_decode(source) if runner.samples_per_pixel == 1 else None
        return np.asarray(imagecodecs.jpegsof3_decode(source) if pixels is None else pixels)
    if syntax in JPEG_LS:
        return np.asarray(imagecodecs.jpegls_decode(source))
    decode = imagecodecs.htj2k_decode if syntax in HTJ2K else imagecodecs.jpeg2k_decode
    return _with_declared_sign(np.asarray(decode(source)), runner)


def _decode_jpeg(source: bytes, runner: DecodeRunner) -> np.ndarray[Any, Any]:
    if runner.samples_per_pixel == 1:
        return np.asarray(imagecodecs.jpeg_decode(source))
    if b"Adobe\x00" in source[:4096] or runner.photometric_interpretation == PI.RGB:
        # An Adobe marker, or no transform declared: let the codec follow the stream, the result is RGB.
        pixels = imagecodecs.jpeg8_decode(source)
        runner.set_option("photometric_interpretation", PI.RGB)
        return np.asarray(pixels)
    runner.set_option("photometric_interpretation", PI.RGB)
    return np.asarray(imagecodecs.jpeg8_decode(source, colorspace="YCBCR", outcolorspace="RGB"))


def _with_declared_sign(pixels: np.ndarray[Any, Any], runner: DecodeRunner) -> np.ndarray[Any, Any]:
    """Read the stream's integers as the data set declares them (PixelRepresentation)."""
    if runner.pixel_representation == 1 and pixels.dtype.kind == "u":
        signed = pixels.view(pixels.dtype.str.replace("u", "i"))
        shift = 8 * pixels.dtype.itemsize - runner.bits_stored
        return np.asarray((signed << shift) >> shift)
    if runner.pixel_representation == 0 and pixels.dtype.kind == "i":
        mask = (1 << runner.bits_stored) - 1
        return np.asarray(pixels & mask).astype(pixels.dtype.str.replace("i", "u"))
    return pixels


def register() -> None:
    """Put imagecodecs first among pydicom's decoders; safe to call again."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if "imagecodecs" not in decoder.available_plugins:
            decoder.add_plugin("imagecodecs", (__name__, "decode_frame"))
            others = dict(decoder._available)
            decoder._available.clear()
            decoder._available["imagecodecs"] = others.pop("imagecodecs")
            decoder._available.update(others)
