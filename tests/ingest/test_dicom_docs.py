"""The tables of docs/dicom.md are true: each cell that says so is read, and every other is refused."""

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset

from ingest.colours import RETIRED
from ingest.decoders import DeflatedImageFrame, EncapsulatedUncompressed, decoder_of
from ingest.mending import KNOWN
from tests.ingest.test_reading import COLOURS, COLOURS_GREY, compressed, data_set, file_of, read_or_none

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "dicom.md").read_text()
GREY = np.full((32, 32), 100, np.uint8)
JPEG_XL_RECOMPRESSION = "1.2.840.10008.1.2.4.111"
ENCODERS: dict[str, tuple[str, Callable[[NDArray[Any]], bytes] | None]] = {
    "uncompressed": (uid.ExplicitVRLittleEndian, None),
    "encapsulated": (EncapsulatedUncompressed, lambda a: a.tobytes()),
    "deflated frame": (DeflatedImageFrame, lambda a: zlib.compress(a.tobytes(), wbits=-15)),
    "RLE": (uid.RLELossless, None),
    "JPEG": (uid.JPEGBaseline8Bit, None),
    "JPEG lossless": (uid.JPEGLosslessSV1, None),
    "JPEG-LS": (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG 2000": (uid.JPEG2000Lossless, None),
    "HTJ2K": (uid.HTJ2KLossless, imagecodecs.htj2k_encode),
    "JPEG XL": ("1.2.840.10008.1.2.4.110", lambda a: imagecodecs.jpegxl_encode(a, lossless=True)),
}


def rows_under(heading: str) -> list[list[str]]:
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines if "---" not in cells[0]]


def is_read(transfer_syntax: str) -> bool:
    try:
        decoder_of(uid.UID(transfer_syntax))
    except NotImplementedError:
        return False
    return True


def test_transfer_syntaxes_that_are_read_are_listed() -> None:
    _, *rows = rows_under("Transfer syntaxes")
    listed = {number for row in rows for number in re.findall(r"`(1\.2\.[\d.]+)`", row[0])}
    known = {number for number, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
    assert listed == {number for number in known if is_read(number)}


def stored_as(photometric: str) -> NDArray[np.uint8]:
    """One colour, or a grey, in its samples."""
    if photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"):
        return GREY
    if photometric in ("RGB", "YBR_ICT", "YBR_RCT"):
        return COLOURS
    if photometric in RETIRED:
        return np.zeros((32, 32, 4 if photometric in ("ARGB", "CMYK") else 3), np.uint8)
    return np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))


def object_of(photometric: str, encoding: str) -> Dataset:
    pixels = stored_as(photometric)
    ds = data_set(pixels, PhotometricInterpretation=photometric, WindowCenter=128, WindowWidth=256)
    if pixels.ndim == 3:
        ds.SamplesPerPixel = pixels.shape[-1]
    if photometric == "PALETTE COLOR":
        for colour in ("Red", "Green", "Blue"):
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(
                ds, f"{colour}PaletteColorLookupTableData", (np.arange(256) * 257).astype("<u2").tobytes()
            )
    syntax, encode = ENCODERS[encoding]
    if encoding == "uncompressed":
        if photometric.endswith("_422"):  # Y1 Y2 Cb Cr for two pixels
            first, second = np.moveaxis(pixels[..., :3].reshape(32, 16, 2, 3), 2, 0)
            ds.PixelData = np.dstack([first[..., 0], second[..., 0], first[..., 1:]]).tobytes()
        return ds
    if photometric in RETIRED or photometric == "YBR_PARTIAL_420":
        return compressed(ds, syntax, bytes(64))  # refused before it is decoded
    if encoding == "RLE":
        ds.compress(syntax, generate_instance_uid=False)
        return ds
    if encoding in ("JPEG", "JPEG lossless"):
        is_lossless = encoding == "JPEG lossless"
        colours = "YCBCR" if photometric.startswith("YBR") and not is_lossless else "RGB"
        kept = {"colorspace": colours, "outcolorspace": colours} if pixels.ndim == 3 else {}
        how = {"lossless": True} if is_lossless else {"level": 100}
        stream = imagecodecs.jpeg8_encode(pixels, **how, **kept)
        if is_lossless and photometric.startswith("YBR"):
            stream = (
                stream[:2] + stream[18:]
            )  # without the Adobe marker, which says RGB, as component names do
            stream = stream.replace(b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0")
            stream = stream.replace(b"R\0G\0B\0", b"\1\0\2\0\3\0")
        return compressed(ds, syntax, stream)
    if encoding == "JPEG 2000":
        mct = photometric in ("YBR_ICT", "YBR_RCT")
        stream = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", mct=mct)
        return compressed(ds, syntax, stream)
    if encoding == "JPEG XL" and photometric.startswith("YBR"):  # a JPEG stream, packed once more
        jpeg = imagecodecs.jpeg8_encode(COLOURS, level=100)
        return compressed(ds, JPEG_XL_RECOMPRESSION, imagecodecs.jpegxl_encode_jpeg(jpeg))
    assert encode
    return compressed(ds, syntax, encode(pixels))


def cells() -> list[Any]:
    header, *rows = rows_under("Photometric interpretations")
    return [
        pytest.param(name, encoding, cell, id=f"{name}-{encoding}")
        for row in rows
        for name in re.findall(r"`([A-Z0-9_ ]+)`", row[0])
        for encoding, cell in zip(header[1:], row[1:], strict=True)
    ]


def test_every_photometric_interpretation_is_listed() -> None:
    assert {cell.values[0] for cell in cells()} == set(KNOWN)
    assert {cell.values[1] for cell in cells()} == set(ENCODERS)


@pytest.mark.parametrize(("photometric", "encoding", "cell"), cells())
def test_cell_is_true(photometric: str, encoding: str, cell: str) -> None:
    assert cell in ("yes", "no", "")
    if cell == "":
        return  # no such pair in the standard
    image = read_or_none(file_of(object_of(photometric, encoding)))
    assert bool(image) == (cell == "yes")
    if image and photometric not in RETIRED:
        expected = {"MONOCHROME1": 155, "MONOCHROME2": 100, "PALETTE COLOR": 100}
        grey = image.frames[0].pixels.astype(int)
        assert np.abs(grey - expected.get(photometric, COLOURS_GREY)).max() <= 2
