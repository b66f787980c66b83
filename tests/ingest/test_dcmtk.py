"""Decoding compared pixel by pixel with an independent decoder: the command line tools of DCMTK (OFFIS).

Run where they are installed; with CBMIR_REQUIRE_DCMTK=1 their absence is a failure.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ingest.decoders import JPEG, JPEG_LOSSLESS, JPEG_LS
from ingest.dicom import decode_frame
from ingest.dicom_parsing import parse_dicom
from ingest.image_file import RejectedFile
from ingest.mending import mend, number_of_frames
from ingest.reading import read_image
from tests.ingest.test_reading import SHARED, compressed, data_set, file_of

TOOLS = ("dcmconv", "dcmdjpeg", "dcmdjpls", "dcmdrle", "dcmj2pnm", "dcmcjpeg", "dcmcjpls", "dcmcrle")
IS_REQUIRED = os.environ.get("CBMIR_REQUIRE_DCMTK") == "1"
pytestmark = pytest.mark.skipif(
    not IS_REQUIRED and not all(map(shutil.which, TOOLS)), reason="DCMTK is not installed"
)
COMPLAINTS = ("Corrupt", "premature", "pixel count differ", "E: ", "F: ")
# Of 255, where YCbCr or HSV is made RGB: DCMTK rounds to whole numbers on the way. All else is exact, lossy
# compression too: both undo the cosine transform in the same integer arithmetic.
COLOUR_TOLERANCE, HSV_TOLERANCE = 2, 5


def run(*command: str) -> str:
    """What the tool complains of. Raises where it fails."""
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return (done.stderr + done.stdout).decode(errors="replace")


def decompressed(path: Path, syntax: UID, folder: Path) -> Dataset:
    """The data set as the tool for its transfer syntax decodes it. Raises where it fails or complains."""
    if syntax in [*JPEG, *JPEG_LOSSLESS]:
        says_colour = b"JFIF\x00" in path.read_bytes()  # whatever the photometric interpretation says
        tool = ["dcmdjpeg", "+te", *(["+cg"] if says_colour else [])]
    elif syntax in JPEG_LS:
        tool = ["dcmdjpls", "+te"]
    else:
        tool = ["dcmdrle" if syntax == uid.RLELossless else "dcmconv", "+te"]
    out = folder / "decompressed.dcm"
    said = run(*tool, str(path), str(out))
    if any(complaint in said for complaint in COMPLAINTS):
        raise ValueError(said)
    return pydicom.dcmread(out)


def stored_values(ds: Dataset) -> Iterator[NDArray[Any]]:
    """The frames of an uncompressed data set, by nothing but numpy."""
    frames, samples = int(ds.get("NumberOfFrames") or 1), ds.SamplesPerPixel
    planar = samples > 1 and ds.PlanarConfiguration == 1
    shape: tuple[int, ...] = (ds.Rows, ds.Columns) if samples == 1 else (ds.Rows, ds.Columns, samples)
    if planar:
        shape = (samples, ds.Rows, ds.Columns)
    if ds.BitsAllocated == 1:
        cells = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    else:
        cells = np.frombuffer(ds.PixelData, f"<{'ui'[ds.PixelRepresentation]}{ds.BitsAllocated // 8}")
        unused = ds.BitsAllocated - ds.HighBit - 1
        cells = (cells << unused) >> (unused + ds.HighBit + 1 - ds.BitsStored)
    for frame in cells[: frames * int(np.prod(shape))].reshape(frames, *shape):
        yield np.moveaxis(frame, 0, -1) if planar else frame


def rendered(path: Path, folder: Path, frames: int) -> Iterator[NDArray[np.uint8]]:
    """The frames of a colour image of 8 bits as RGB."""
    run("dcmj2pnm", "+Fa", "+op", str(path), str(folder / "frame"))
    for number in range(frames):
        yield np.asarray(Image.open(folder / f"frame.{number}.ppm"))


def ours(content: bytes) -> tuple[Dataset, Iterator[NDArray[Any]]]:
    ds = parse_dicom(content, [])
    mend(ds, [])
    return ds, (decode_frame(ds, index) for index in range(number_of_frames(ds, [])))


def decoded_by_dcmtk(path: Path, ds: Dataset, folder: Path) -> list[NDArray[Any]]:
    """Every frame. What DCMTK leaves in another colour than ours is rendered. Raises where it cannot."""
    theirs = decompressed(path, ds.file_meta.TransferSyntaxUID, folder)
    if theirs.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB"):
        return list(stored_values(theirs))
    return list(rendered(path, folder, int(ds.get("NumberOfFrames") or 1)))


def largest_difference(content: bytes, folder: Path) -> int:
    """Of our decoding of every frame to DCMTK's."""
    path = folder / "file.dcm"
    path.write_bytes(content)
    ds, frames = ours(content)
    most = 0
    for pixels, other in zip(frames, decoded_by_dcmtk(path, ds, folder), strict=True):
        assert pixels.shape == other.shape
        most = max(most, int(np.abs(pixels.astype(np.int64) - other.astype(np.int64)).max()))
    return most


def tolerance_of(ds: Dataset) -> int:
    is_jpeg = ds.file_meta.TransferSyntaxUID in JPEG
    return COLOUR_TOLERANCE if str(ds.PhotometricInterpretation).startswith("YBR") and not is_jpeg else 0


# Made here: encoded by DCMTK or by imagecodecs


def slice_of(bits: int, signed: bool = False) -> Dataset:
    """A smooth body with noise and an edge, using all of the bits."""
    y, x = np.mgrid[-1:1:61j, -1:1:46j]
    values = np.exp(-2 * (x**2 + y**2)) * 0.9 + 0.1 * np.random.default_rng(bits).random(x.shape)
    values = np.where(x > 0.6, 1 - values, values)
    values = (values - values.min()) / (values.max() - values.min()) * (2**bits - 1) - signed * 2 ** (
        bits - 1
    )
    dtype = f"{'ui'[signed]}{1 if bits <= 8 else 2}"
    return data_set(np.round(values).astype(dtype), BitsStored=bits, HighBit=bits - 1)


def colour_slice(photometric: str = "RGB") -> Dataset:
    planes = np.stack([np.frombuffer(slice_of(8).PixelData, np.uint8).reshape(61, 46)] * 3, axis=-1)
    planes[..., 1] = planes[::-1, :, 1]
    planes[..., 2] = planes[:, ::-1, 2] // 2
    return data_set(planes[:60], PhotometricInterpretation=photometric)


def volume_of(bits: int, frames: int = 3) -> Dataset:
    pixels = np.frombuffer(slice_of(bits).PixelData, np.uint16).reshape(61, 46)
    turned = np.stack([np.roll(pixels, 5 * number, axis=0) for number in range(frames)])
    return data_set(turned, frames=frames, BitsStored=bits, HighBit=bits - 1)


def palette_slice() -> Dataset:
    ds = slice_of(8)
    ds.PhotometricInterpretation = "PALETTE COLOR"
    for number, colour in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = (np.roll(np.arange(256), 50 * number) * 257).astype("<u2").tobytes()
        setattr(ds, f"{colour}PaletteColorLookupTableData", table)
    return ds


SLICES = {
    "8 bits": lambda: slice_of(8),
    "10 bits": lambda: slice_of(10),
    "12 bits": lambda: slice_of(12),
    "12 bits, signed": lambda: slice_of(12, signed=True),
    "16 bits": lambda: slice_of(16),
    "16 bits, signed": lambda: slice_of(16, signed=True),
    "RGB": colour_slice,
    "palette": palette_slice,
    "3 frames": lambda: volume_of(12),
}
LOSSLESS = {
    "uncompressed": ["dcmconv", "+te"],
    "implicit": ["dcmconv", "+ti"],
    "big endian": ["dcmconv", "+tb"],
    "deflated": ["dcmconv", "+td"],
    "JPEG lossless": ["dcmcjpeg", "+el"],
    "JPEG lossless SV1": ["dcmcjpeg", "+e1"],
    "JPEG-LS": ["dcmcjpls", "+el"],
    "RLE": ["dcmcrle"],
}
LOSSY = {
    "JPEG baseline": ["dcmcjpeg", "+eb"],
    "JPEG extended": ["dcmcjpeg", "+ee"],
    "JPEG spectral selection": ["dcmcjpeg", "+es"],
    "JPEG progressive": ["dcmcjpeg", "+ep"],
    "JPEG-LS near": ["dcmcjpls", "+en"],
}
BITS_OF_LOSSY = {"JPEG baseline": 8, "JPEG-LS near": 16}  # others 12


def encoded(ds: Dataset, command: list[str], folder: Path) -> bytes:
    source, target = folder / "source.dcm", folder / "encoded.dcm"
    source.write_bytes(file_of(ds))
    run(*command, str(source), str(target))
    return target.read_bytes()


@pytest.mark.parametrize("encoding", LOSSLESS)
@pytest.mark.parametrize("kind", SLICES)
def test_lossless_encodings_by_dcmtk_come_back_exactly(kind: str, encoding: str, tmp_path: Path) -> None:
    ds = SLICES[kind]()
    content = encoded(ds, LOSSLESS[encoding], tmp_path)
    _, frames = ours(content)
    assert largest_difference(content, tmp_path) == 0
    for pixels, original in zip(frames, stored_values(ds), strict=True):
        assert np.array_equal(pixels, original)


@pytest.mark.parametrize("encoding", ["JPEG lossless", "JPEG lossless SV1", "JPEG-LS", "RLE"])
def test_colour_stays_as_it_is_stored_in_lossless_encodings(encoding: str, tmp_path: Path) -> None:
    ds = colour_slice("YBR_FULL")
    (stored,) = stored_values(ds)
    _, frames = ours(encoded(ds, LOSSLESS[encoding], tmp_path))
    rgb = np.asarray(Image.fromarray(stored, "YCbCr").convert("RGB"))
    assert np.abs(next(iter(frames)).astype(int) - rgb).max() <= COLOUR_TOLERANCE


@pytest.mark.parametrize("encoding", LOSSY)
@pytest.mark.parametrize("kind", ["8 bits", "10 bits", "12 bits", "16 bits", "RGB", "3 frames"])
def test_lossy_encodings_by_dcmtk_are_decoded_alike(kind: str, encoding: str, tmp_path: Path) -> None:
    ds = SLICES[kind]()
    if ds.BitsStored > BITS_OF_LOSSY.get(encoding, 12):
        pytest.skip("more bits than this encoding has")
    assert largest_difference(encoded(ds, LOSSY[encoding], tmp_path), tmp_path) == 0


@pytest.mark.parametrize("kind", ["8 bits", "12 bits", "16 bits", "RGB"])
@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless])
def test_encodings_by_imagecodecs_are_decoded_alike(kind: str, syntax: str, tmp_path: Path) -> None:
    ds = SLICES[kind]()
    (original,) = stored_values(ds)
    if syntax == uid.JPEGLSLossless:
        stream = imagecodecs.jpegls_encode(original)
    else:
        options = {"colorspace": "RGB", "outcolorspace": "RGB"} if kind == "RGB" else {}
        stream = imagecodecs.jpeg8_encode(original, lossless=True, bitspersample=ds.BitsStored, **options)
    content = file_of(compressed(ds, syntax, stream))
    assert largest_difference(content, tmp_path) == 0
    _, frames = ours(content)
    assert np.array_equal(next(iter(frames)), original)


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422", "HSV", "CMYK", "YBR_PARTIAL_422"])
@pytest.mark.parametrize("planar", [0, 1])
def test_uncompressed_colours_are_rendered_alike(photometric: str, planar: int, tmp_path: Path) -> None:
    samples = 4 if photometric == "CMYK" else 3
    stored = np.random.default_rng(0).integers(16, 236, (16, 20, samples)).astype(np.uint8)
    if photometric == "CMYK":
        stored //= 2  # DCMTK does not stop at black
    ds = data_set(stored, PhotometricInterpretation=photometric)
    ds.SamplesPerPixel, ds.PlanarConfiguration = samples, planar
    if photometric.endswith("_422"):
        ds.PlanarConfiguration = 0
        ds.PixelData = stored.tobytes()[: 16 * 20 * 2]
    elif planar:
        ds.PixelData = np.moveaxis(stored, -1, 0).tobytes()
    path = tmp_path / "colour.dcm"
    path.write_bytes(file_of(ds))
    _, frames = ours(path.read_bytes())
    (theirs,) = rendered(path, tmp_path, 1)
    tolerance = HSV_TOLERANCE if photometric == "HSV" else COLOUR_TOLERANCE
    assert np.abs(next(iter(frames)).astype(int) - theirs).max() <= tolerance


@pytest.mark.parametrize(
    ("low_bits", "overlay"), [(0, False), (4, False), (0, True)], ids=["plain", "shifted", "with an overlay"]
)
@pytest.mark.parametrize("signed", [False, True])
def test_bits_beside_the_stored_ones_are_no_values(
    low_bits: int, overlay: bool, signed: bool, tmp_path: Path
) -> None:
    ds = slice_of(12, signed)
    cells = np.frombuffer(ds.PixelData, np.uint16) << low_bits
    ds.PixelData = np.where(cells % 7 == 0, cells | 0x8000, cells).tobytes() if overlay else cells.tobytes()
    ds.HighBit = 11 + low_bits
    content = file_of(ds)
    assert largest_difference(content, tmp_path) == 0
    _, frames = ours(content)
    assert np.array_equal(next(iter(frames)), next(stored_values(slice_of(12, signed))))


# Real files


def real_files() -> list[Any]:
    files = sorted((SHARED / "dicom").rglob("*.dcm"))
    if not files:
        reason = "the folder of real images beside the project is absent"
        return [pytest.param(Path(), marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(path, id=path.name) for path in files]


@pytest.mark.shared_data
@pytest.mark.parametrize("path", real_files())
def test_real_file_is_decoded_alike(path: Path, tmp_path: Path) -> None:
    """Every one that DCMTK decodes without complaint is read, but for the one that inflates to 400 MB."""
    if "bomb" in path.name:
        pytest.skip("refused because of its size")
    content = path.read_bytes()
    try:
        header = parse_dicom(content, [])
        decoded_by_dcmtk(path, header, tmp_path)
    except (RejectedFile, OSError, ValueError, AttributeError, TypeError, subprocess.SubprocessError):
        pytest.skip("DCMTK does not decode it")
    assert read_image(content).frames
    if path.name == "sc_frames_140_short_jpeg.dcm":
        return  # some of its frames have fewer rows than the file says, and are left out
    assert largest_difference(content, tmp_path) <= tolerance_of(header)
