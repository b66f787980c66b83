"""Every compressed transfer syntax that is read here, as pydicom decoders over imagecodecs (BSD).

pydicom itself does the uncompressed ones, deflated and RLE. Source: DICOM PS3.5 annex A.4; the two retired
JPEG processes (spectral selection and full progression) are those of its editions before 2004.
"""

import zlib
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.pixels.common import PhotometricInterpretation as PI
from pydicom.pixels.decoders.base import Decoder, DecodeRunner, get_decoder

from ingest.image_file import MAX_PIXELS

DeflatedImageFrame = uid.UID("1.2.840.10008.1.2.8.1")
EncapsulatedUncompressed = uid.UID("1.2.840.10008.1.2.1.98")
JPEG_XL = [uid.UID(f"1.2.840.10008.1.2.4.{number}") for number in (110, 111, 112)]
# Newer than pydicom's dictionary, and without an entry pydicom would not take the pixel data as encapsulated.
NEWER = dict(zip(JPEG_XL, ("JPEG XL Lossless", "JPEG XL JPEG Recompression", "JPEG XL"), strict=True))
for new_uid, new_name in {DeflatedImageFrame: "Deflated Image Frame Compression", **NEWER}.items():
    UID_dictionary.setdefault(str(new_uid), (new_name, "Transfer Syntax", "", "", new_name.replace(" ", "")))
JPEG = [
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.UID("1.2.840.10008.1.2.4.53"),
    uid.UID("1.2.840.10008.1.2.4.55"),
]
JPEG_LOSSLESS = [uid.JPEGLossless, uid.JPEGLosslessSV1]
JPEG_LS = [uid.JPEGLSLossless, uid.JPEGLSNearLossless]
JPEG_2000 = [uid.JPEG2000Lossless, uid.JPEG2000]
HTJ2K = [uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K]
DECODER_DEPENDENCIES = dict.fromkeys(
    [
        *(*JPEG, *JPEG_LOSSLESS, *JPEG_LS, *JPEG_2000, *HTJ2K, *JPEG_XL),
        *(DeflatedImageFrame, EncapsulatedUncompressed, uid.RLELossless),
    ],
    ("imagecodecs",),
)
J2K_START = b"\xff\x4f\xff\x51"  # SOC and SIZ, the first markers of a JPEG 2000 codestream
JXL_START = b"\xff\x0a"
JXL_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # of width to height
JPEG_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 and SOF55 of JPEG-LS


def is_available(transfer_syntax: str) -> bool:
    """Asked by pydicom before it takes a function as a plugin."""
    return transfer_syntax in DECODER_DEPENDENCIES


def decoder_of(transfer_syntax: uid.UID) -> Decoder:
    """The decoder of a transfer syntax. Raises NotImplementedError where there is none."""
    return DECODERS.get(transfer_syntax) or get_decoder(transfer_syntax)


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame, samples interleaved, in the colour that the runner's photometric interpretation says.

    Raises ValueError where the stream is larger than may be decoded or deeper than Bits Allocated.
    """
    size = jpeg_xl_pixels if runner.transfer_syntax in JPEG_XL else codestream_pixels
    if size(source) > MAX_PIXELS:
        raise ValueError("the codestream holds more pixels than are decoded")
    pixels = _decode(source, runner)
    allocated = runner.bits_allocated
    if 8 * pixels.dtype.itemsize > max(allocated, 8):
        raise ValueError("the codestream is deeper than Bits Allocated")
    if 8 * pixels.dtype.itemsize < allocated:
        pixels = pixels.astype(f"{pixels.dtype.kind}{allocated // 8}")
    if pixels.ndim == 3 and runner.photometric_interpretation in (PI.YBR_ICT, PI.YBR_RCT):
        runner.set_option("photometric_interpretation", PI.RGB)  # the codec has undone the transform
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return np.ascontiguousarray(pixels).tobytes()


def inflate_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame of Deflated Image Frame Compression (PS3.5 A.4.14): a deflated uncompressed frame."""
    length = -(-_bits_of_frame(runner) // 8)
    packed = zlib.decompressobj(-zlib.MAX_WBITS).decompress(source, length + 1)[:length]
    return _unpacked(packed, runner) if runner.bits_allocated == 1 else packed


def copy_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """One frame of Encapsulated Uncompressed Explicit VR Little Endian (PS3.5 A.4.11)."""
    length = -(-_bits_of_frame(runner) // 8)
    if len(source) < length:
        raise ValueError("the frame is cut off")
    return _unpacked(source, runner) if runner.bits_allocated == 1 else source[:length]


def decode_rle_bits(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one RLE frame of single bits (PS3.5 8.2.2), which pydicom leaves out."""
    if runner.bits_allocated != 1:
        raise ValueError("more than one bit a pixel")
    start = int.from_bytes(source[4:8], "little")
    return _unpacked(bytes(imagecodecs.packbits_decode(source[start:])), runner)


def codestream_pixels(source: bytes) -> int:
    """Samples that a JPEG, JPEG-LS or JPEG 2000 stream says it holds; 0 where it does not say."""
    start = source.find(J2K_START, 0, 1024)
    if start >= 0:
        size = np.frombuffer(source[start + 8 : start + 40], ">u4")
        components = int.from_bytes(source[start + 40 : start + 42], "big")
        return int(size[0]) * int(size[1]) * max(components, 1) if size.size == 8 else 0
    position = 2
    while position + 10 <= len(source) and source[position] == 0xFF:
        marker = source[position + 1]
        if marker in JPEG_FRAME_HEADERS:
            header = source[position + 5 : position + 10]
            return int.from_bytes(header[:2], "big") * int.from_bytes(header[2:4], "big") * max(header[4], 1)
        fill = marker == 0xFF  # any number of these may stand before a marker
        position += 1 if fill else 2 + int.from_bytes(source[position + 2 : position + 4], "big")
    return 0


def jpeg_xl_pixels(source: bytes) -> int:
    """Pixels that a JPEG XL codestream, bare or in boxes, says it holds (ISO/IEC 18181-1, SizeHeader)."""
    start = 0 if source[:2] == JXL_START else source.find(JXL_START, 0, 1024)
    bits = int.from_bytes(source[start + 2 : start + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def take_length() -> int:
        return 8 * (take(5) + 1) if in_eights else take((9, 13, 18, 30)[take(2)]) + 1

    in_eights = take(1)
    height = take_length()
    ratio = take(3)
    numerator, denominator = JXL_RATIOS[ratio]
    width = height * numerator // denominator if ratio else take_length()
    return height * width


def _decode(source: bytes, runner: DecodeRunner) -> NDArray[Any]:
    syntax = runner.transfer_syntax
    if syntax in JPEG:
        return _decode_jpeg(source, runner)
    if syntax in JPEG_LOSSLESS:
        return _decode_jpeg_lossless(source)
    if syntax in JPEG_LS:
        return _with_declared_sign(np.asarray(imagecodecs.jpegls_decode(source)), runner)
    if syntax in JPEG_XL:
        if runner.samples_per_pixel > 1:
            runner.set_option("photometric_interpretation", PI.RGB)  # whatever it is stored as
        return _with_declared_sign(np.squeeze(imagecodecs.jpegxl_decode(source)), runner)
    decode = imagecodecs.htj2k_decode if syntax in HTJ2K else imagecodecs.jpeg2k_decode
    return _with_declared_sign(np.asarray(decode(source)), runner)


def _decode_jpeg(source: bytes, runner: DecodeRunner) -> NDArray[Any]:
    """Grey as it is, colour as RGB: an Adobe marker decides, then the photometric interpretation.

    Left to itself the codec takes every unmarked stream for YCbCr. pydicom has by now corrected the
    photometric interpretation from a JFIF marker and from component identifiers.
    """
    if runner.samples_per_pixel == 1:
        return np.asarray(imagecodecs.jpeg8_decode(source))
    stored = "RGB" if runner.photometric_interpretation == PI.RGB else "YCBCR"
    runner.set_option("photometric_interpretation", PI.RGB)
    if b"Adobe\x00" in source[:4096] or b"Adobe\x64" in source[:4096]:
        return np.asarray(imagecodecs.jpeg8_decode(source))
    return np.asarray(imagecodecs.jpeg8_decode(source, colorspace=stored, outcolorspace="RGB"))


def _decode_jpeg_lossless(source: bytes) -> NDArray[Any]:
    """Where two independent decoders disagree the stream is damaged: neither of them notices by itself."""
    pixels = np.asarray(imagecodecs.jpegsof3_decode(source))
    kept = "RGB" if pixels.ndim == 3 else None  # from and to the same colour: samples as they are stored
    if not np.array_equal(pixels, imagecodecs.jpeg8_decode(source, colorspace=kept, outcolorspace=kept)):
        raise ValueError("the lossless JPEG stream is damaged")
    return pixels


def _with_declared_sign(pixels: NDArray[Any], runner: DecodeRunner) -> NDArray[Any]:
    """Read the stream's integers as the data set declares them (PixelRepresentation)."""
    if runner.pixel_representation == 1 and pixels.dtype.kind == "u":
        signed = pixels.view(pixels.dtype.str.replace("u", "i"))
        shift = max(8 * pixels.dtype.itemsize - runner.bits_stored, 0)
        return np.asarray((signed << shift) >> shift)
    if runner.pixel_representation == 0 and pixels.dtype.kind == "i":
        mask = (1 << runner.bits_stored) - 1
        return np.asarray(pixels & mask).astype(pixels.dtype.str.replace("i", "u"))
    return pixels


def _bits_of_frame(runner: DecodeRunner) -> int:
    return int(runner.rows * runner.columns * runner.samples_per_pixel * runner.bits_allocated)


def _unpacked(packed: bytes, runner: DecodeRunner) -> bytes:
    runner.set_option("bits_allocated", 8)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    return bits[: runner.rows * runner.columns].tobytes()


def _build_decoders() -> dict[str, Decoder]:
    functions = {
        DeflatedImageFrame: "inflate_frame",
        EncapsulatedUncompressed: "copy_frame",
        uid.RLELossless: "decode_rle_bits",
    }
    decoders: dict[str, Decoder] = {}
    for syntax in DECODER_DEPENDENCIES:
        decoder = decoders[syntax] = Decoder(syntax)
        if syntax == uid.RLELossless:
            decoder.add_plugin("pydicom", ("pydicom.pixels.decoders.rle", "_decode_frame"))
        decoder.add_plugin("imagecodecs", (__name__, functions.get(syntax, "decode_frame")))
    return decoders


DECODERS = _build_decoders()  # our own, so that no other decoder of pydicom ever gets to see a file
