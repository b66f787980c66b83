"""Bytes in, grey frames out: DICOM and pictures, whole, odd, damaged and hostile."""

import csv
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from ingest.reading import ReadImage, RejectedFile, read_image
from ingest.slices import SliceRule, parts_of

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
RAMP = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)  # 12 bits, every value once
COLOURS = np.stack([np.full((32, 32), value, np.uint8) for value in (200, 40, 90)], axis=-1)
COLOURS_GREY = round(0.299 * 200 + 0.587 * 40 + 0.114 * 90)
RETIRED_PROGRESSIVE = "1.2.840.10008.1.2.4.55"
DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
JPEG_XL_LOSSLESS, JPEG_XL = "1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.112"


def data_set(pixels: NDArray[Any], frames: int = 0, **attributes: Any) -> Dataset:
    """A small CT object around the pixels: (frames, rows, columns) where `frames` is given."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID = uid.CTImageStorage
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    ds.Modality, ds.PatientID, ds.PatientName = "CT", "PID-4711", "Doe^Jane"
    shape = pixels.shape[1:] if frames else pixels.shape
    ds.Rows, ds.Columns = shape[:2]
    ds.SamplesPerPixel = 3 if len(shape) == 3 else 1
    ds.PhotometricInterpretation = "RGB" if len(shape) == 3 else "MONOCHROME2"
    if len(shape) == 3:
        ds.PlanarConfiguration = 0
    if frames:
        ds.NumberOfFrames = frames
    bits = 8 * pixels.dtype.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OW" if bits > 8 else "OB"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def compressed(ds: Dataset, transfer_syntax: str, *streams: bytes) -> Dataset:
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.PixelData = encapsulate(list(streams))
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def file_of(ds: Dataset) -> bytes:
    buffer = BytesIO()
    syntax = ds.file_meta.TransferSyntaxUID
    ds.save_as(buffer, enforce_file_format=True, implicit_vr=syntax == uid.ImplicitVRLittleEndian,
               little_endian=syntax != uid.ExplicitVRBigEndian)  # fmt: skip
    return buffer.getvalue()


def pixels_of(ds: Dataset) -> NDArray[np.uint8]:
    return read_image(file_of(ds)).frames[0].pixels


def rejection(content: bytes) -> RejectedFile:
    with pytest.raises(RejectedFile) as caught:
        read_image(content)
    assert caught.value.sentence.endswith(".")
    assert "Traceback" not in caught.value.sentence
    return caught.value


def read_or_none(content: bytes) -> ReadImage | None:
    try:
        return read_image(content)
    except RejectedFile as rejected:
        if not rejected.code or not rejected.sentence.endswith("."):
            raise
        return None


def picture(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def windowed_ramp() -> Dataset:
    """The ramp shown so that stored value v is grey v / 12."""
    return data_set(RAMP, BitsStored=12, HighBit=11, WindowCenter=1530.5, WindowWidth=3061)


# Transfer syntaxes


@pytest.mark.parametrize(
    ("transfer_syntax", "encode"),
    [
        (uid.JPEGExtended12Bit, lambda a: imagecodecs.jpeg8_encode(a, level=100, bitspersample=12)),
        (RETIRED_PROGRESSIVE, lambda a: imagecodecs.jpeg8_encode(a, level=100, bitspersample=12)),
        (uid.JPEGLossless, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=12)),
        (uid.JPEGLosslessSV1, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=12)),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
        (uid.JPEGLSNearLossless, lambda a: imagecodecs.jpegls_encode(a, level=2)),
        (uid.JPEG2000Lossless, lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k")),
        (uid.JPEG2000, lambda a: imagecodecs.jpeg2k_encode(a, level=100, codecformat="j2k")),
        (uid.HTJ2KLossless, imagecodecs.htj2k_encode),
        (uid.HTJ2KLosslessRPCL, imagecodecs.htj2k_encode),
        (uid.HTJ2K, imagecodecs.htj2k_encode),
        (JPEG_XL_LOSSLESS, lambda a: imagecodecs.jpegxl_encode(a, lossless=True)),
        (JPEG_XL, lambda a: imagecodecs.jpegxl_encode(a, lossless=True)),
        (ENCAPSULATED_UNCOMPRESSED, lambda a: a.tobytes()),
        (DEFLATED_IMAGE_FRAME, lambda a: zlib.compress(a.tobytes(), wbits=-15)),
    ],
)
def test_compressed_grey_looks_like_uncompressed(transfer_syntax: str, encode: Any) -> None:
    expected = pixels_of(windowed_ramp()).astype(int)
    content = file_of(compressed(windowed_ramp(), transfer_syntax, encode(RAMP)))
    image = read_image(content)
    assert image.transfer_syntax_uid == transfer_syntax
    assert np.abs(image.frames[0].pixels.astype(int) - expected).max() <= 1
    assert expected.min() == 0
    assert expected.max() == 255


@pytest.mark.parametrize(
    "transfer_syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
    ],
)
def test_pydicoms_own_transfer_syntaxes(transfer_syntax: uid.UID) -> None:
    ds = windowed_ramp()
    expected = pixels_of(windowed_ramp())
    if transfer_syntax == uid.RLELossless:
        ds.compress(uid.RLELossless, generate_instance_uid=False)
    elif transfer_syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = RAMP.byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    assert np.array_equal(pixels_of(ds), expected)


@pytest.mark.parametrize("encode", [imagecodecs.jpegls_encode, None])
def test_signed_pixels_stored_as_unsigned_streams(encode: Any) -> None:
    signed = RAMP.astype(np.int16) - 1500
    window = {"WindowCenter": 30.5, "WindowWidth": 3061}
    raw = data_set(signed, BitsStored=12, HighBit=11, **window)
    stream = (signed & 0xFFF).astype(np.uint16)
    ds = data_set(signed, BitsStored=12, HighBit=11, **window)
    if encode:
        compressed(ds, uid.JPEGLSLossless, encode(stream))
    else:
        compressed(ds, uid.JPEG2000Lossless, imagecodecs.jpeg2k_encode(stream, level=0, codecformat="j2k"))
    assert np.array_equal(pixels_of(ds), pixels_of(raw))


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    ("photometric", "options"),
    [
        ("YBR_FULL_422", {"colorspace": "RGB", "outcolorspace": "YCBCR"}),
        ("YBR_FULL", {"colorspace": "RGB", "outcolorspace": "YCBCR"}),
        ("RGB", {"colorspace": "RGB", "outcolorspace": "RGB"}),
    ],
)
def test_jpeg_colour_is_what_the_file_says(photometric: str, options: dict[str, str], frames: int) -> None:
    stream = imagecodecs.jpeg8_encode(COLOURS, level=100, **options)
    ds = data_set(np.stack([COLOURS] * frames), frames=frames, PhotometricInterpretation=photometric)
    image = read_image(file_of(compressed(ds, uid.JPEGBaseline8Bit, *[stream] * frames)))
    assert image.tags["PhotometricInterpretation"] == photometric
    for frame in image.frames:
        assert np.abs(frame.pixels.astype(int) - COLOURS_GREY).max() <= 2


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_uncompressed_colour_in_every_frame(photometric: str, frames: int) -> None:
    stored = COLOURS if photometric == "RGB" else np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))
    ds = data_set(np.stack([stored] * frames), frames=frames, PhotometricInterpretation=photometric)
    for frame in read_image(file_of(ds)).frames:
        assert np.abs(frame.pixels.astype(int) - COLOURS_GREY).max() <= 1


@pytest.mark.parametrize(
    ("photometric", "stored"),
    [
        ("ARGB", [255, 200, 40, 90]),
        ("CMYK", [55, 215, 165, 0]),
        ("CMYK", [15, 175, 125, 40]),
        ("HSV", [241, 204, 200]),
        ("YBR_PARTIAL_422", [97, 97, 128, 187]),  # Y, Y, Cb and Cr of (200, 40, 90) in studio range, nearly
    ],
)
def test_retired_colours(photometric: str, stored: list[int]) -> None:
    ds = data_set(COLOURS, PhotometricInterpretation=photometric)
    pairs = photometric == "YBR_PARTIAL_422"
    ds.SamplesPerPixel = 3 if pairs else len(stored)
    ds.PixelData = bytes(stored) * (32 * 32 // (2 if pairs else 1))
    assert np.abs(pixels_of(ds).astype(int) - COLOURS_GREY).max() <= 2


def test_what_no_decoder_knows_is_said() -> None:
    ds = compressed(data_set(COLOURS, PhotometricInterpretation="CMYK"), uid.JPEGBaseline8Bit, b"x" * 10)
    ds.SamplesPerPixel = 4
    rejected = rejection(file_of(ds))
    assert rejected.code == "unsupported_photometric_interpretation"
    assert "CMYK in JPEG Baseline" in rejected.sentence


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SamplesPerPixel", None),
        ("PhotometricInterpretation", None),
        ("PhotometricInterpretation", "MONOCHROME"),
        ("PhotometricInterpretation", "RGB"),
        ("BitsAllocated", None),
        ("BitsAllocated", 24),
        ("BitsStored", None),
        ("BitsStored", 17),
        ("PixelRepresentation", None),
        ("Modality", None),
    ],
)
def test_missing_or_wrong_attributes_are_assumed(keyword: str, value: Any) -> None:
    window = {"WindowCenter": 1530.5, "WindowWidth": 3061}
    expected = pixels_of(data_set(RAMP, **window))
    ds = data_set(RAMP, **window)
    if value is None:
        del ds[keyword]
    else:
        setattr(ds, keyword, value)
    image = read_image(file_of(ds))
    assert np.array_equal(image.frames[0].pixels, expected)
    assert (image.modality, image.bits_stored) == ("CT", 16)
    assert any(keyword in sentence and "assumed" in sentence for sentence in image.assumptions)


def test_cells_of_twelve_bits_without_gaps() -> None:
    bits = np.unpackbits(RAMP.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")[:, :12]
    ds = windowed_ramp()
    ds.BitsAllocated, ds.PixelData = 12, np.packbits(bits, bitorder="little").tobytes()
    assert np.array_equal(pixels_of(ds), pixels_of(windowed_ramp()))


def test_jpeg_2000_colour_transform_is_undone() -> None:
    stream = imagecodecs.jpeg2k_encode(COLOURS, level=0, codecformat="j2k", mct=True)
    ds = compressed(data_set(COLOURS, PhotometricInterpretation="YBR_RCT"), uid.JPEG2000Lossless, stream)
    assert set(np.unique(pixels_of(ds))) == {COLOURS_GREY}


@pytest.mark.parametrize("transfer_syntax", [uid.RLELossless, DEFLATED_IMAGE_FRAME])
def test_compressed_single_bits(transfer_syntax: str) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 3:12] = 1
    packed = np.packbits(mask, bitorder="little").tobytes()
    ds = data_set(mask, BitsAllocated=1, BitsStored=1, HighBit=0)
    header = np.array([1, 64, *[0] * 14], "<u4").tobytes()  # one segment, straight after it
    rle = header + imagecodecs.packbits_encode(packed)
    stream = rle if transfer_syntax == uid.RLELossless else zlib.compress(packed, wbits=-15)
    assert np.array_equal(pixels_of(compressed(ds, transfer_syntax, stream)), mask * 255)


# What is shown


def test_monochrome1_is_inverted() -> None:
    ds = windowed_ramp()
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(pixels_of(ds), 255 - pixels_of(windowed_ramp()))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_after_rescale(function: str) -> None:
    ds = data_set(
        RAMP,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=40,
        WindowWidth=400,
        VOILUTFunction=function,
    )
    values = RAMP.astype(float) - 1024
    expected = {
        "LINEAR": np.clip(((values - 39.5) / 399 + 0.5) * 255, 0, 255),
        "LINEAR_EXACT": np.clip(((values - 40) / 400 + 0.5) * 255, 0, 255),
        "SIGMOID": 255 / (1 + np.exp(np.clip(-4 * (values - 40) / 400, -80, 80))),
    }[function]
    assert np.abs(pixels_of(ds) - expected).max() <= 0.51


def test_no_window_ignores_padding() -> None:
    values = (RAMP % 100).astype(np.int16)
    values[:, :10] = -2000
    image = read_image(file_of(data_set(values, PixelPaddingValue=-2000)))
    assert image.frames[0].pixels[:, 10:].std() > 50
    assert "No window was given" in " ".join(image.assumptions)


def test_voi_lut_before_window() -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [256, 0, 8], [255 - value for value in range(256)]
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ds = data_set(ramp, VOILUTSequence=Sequence([lut]), WindowCenter=5, WindowWidth=2)
    assert np.array_equal(pixels_of(ds), 255 - ramp)


def test_lookup_tables_of_bytes_are_applied() -> None:
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 16]
    lut.add_new("LUTData", "OW", (np.arange(4096)[::-1] * 4).astype("<u2").tobytes())
    lut["LUTDescriptor"].VR = "US"
    ds = data_set(RAMP, BitsStored=12, HighBit=11, ModalityLUTSequence=Sequence([lut]))
    image = read_image(file_of(ds))
    assert np.corrcoef(image.frames[0].pixels.ravel(), RAMP.ravel())[0, 1] < -0.99
    assert not any("left out" in sentence for sentence in image.assumptions)


def test_of_several_windows_the_first_that_shows_something_is_applied() -> None:
    ds = windowed_ramp()
    ds.WindowCenter, ds.WindowWidth = [90000, 1530.5, 40], [10, 3061, 400]
    image = read_image(file_of(ds))
    assert np.array_equal(image.frames[0].pixels, pixels_of(windowed_ramp()))
    assert "Of 3 windows number 2 was applied." in image.assumptions


def test_of_several_voi_luts_the_first_is_applied() -> None:
    tables = []
    for data in ([255 - value for value in range(256)], [0] * 256):
        lut = Dataset()
        lut.LUTDescriptor, lut.LUTData = [256, 0, 8], data
        lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
        tables.append(lut)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = read_image(file_of(data_set(ramp, VOILUTSequence=Sequence(tables))))
    assert np.array_equal(image.frames[0].pixels, 255 - ramp)
    assert "Of 2 VOI LUTs the first was applied." in image.assumptions


def test_empty_lookup_tables_are_passed_over() -> None:
    ds = windowed_ramp()
    ds.ModalityLUTSequence = ds.VOILUTSequence = Sequence([Dataset()])
    assert np.array_equal(pixels_of(ds), pixels_of(windowed_ramp()))


def test_palette_colour() -> None:
    ds = data_set(np.array([[0, 1], [1, 0]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [2, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", np.array([0, 65535], np.uint16).tobytes())
    assert np.array_equal(pixels_of(ds), [[0, 255], [255, 0]])


def test_window_of_each_frame() -> None:
    frames = np.stack([np.full((8, 8), 500, np.uint16), np.full((8, 8), 500, np.uint16)])
    frames[:, 0, 0] = 0
    groups = []
    for center in (500, 250):
        group, voi = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 500
        group.FrameVOILUTSequence = Sequence([voi])
        groups.append(group)
    ds = data_set(frames, frames=2, PerFrameFunctionalGroupsSequence=Sequence(groups))
    first, second = read_image(file_of(ds)).frames
    assert (first.pixels[4, 4], second.pixels[4, 4]) == (128, 255)


def test_float_pixels_with_a_window_of_one() -> None:
    ds = data_set(np.zeros((4, 4), np.uint16), WindowCenter=0.5, WindowWidth=1)
    del ds.PixelData
    ds.BitsAllocated = 32
    ds.FloatPixelData = np.linspace(0, 1, 16, dtype=np.float32).tobytes()
    assert np.array_equal(pixels_of(ds).ravel(), np.round(np.linspace(0, 255, 16) + 1e-3))


# Frames


def test_frames_are_evenly_spaced_and_numbered() -> None:
    frames = np.stack([np.full((4, 4), 10 * i, np.uint8) for i in range(20)])
    content = file_of(data_set(frames, frames=20, WindowCenter=128, WindowWidth=256))
    image = read_image(content, SliceRule(most=4))
    assert image.number_of_frames == 20
    assert [frame.frame_number for frame in image.frames] == [3, 8, 13, 18]
    assert [frame.pixels[0, 0] for frame in image.frames] == [20, 70, 120, 170]
    assert [f.frame_number for f in read_image(content, middle_frame_only=True).frames] == [11]
    assert [f.frame_number for f in read_image(content, frame=20).frames] == [20]
    with pytest.raises(RejectedFile) as caught:
        read_image(content, frame=21)
    assert caught.value.code == "no_such_frame"


@given(number=st.integers(1, 500), most=st.integers(1, 20))
def test_chosen_frames_are_distinct_and_in_range(number: int, most: int) -> None:
    parts = parts_of(range(number), SliceRule(most=most))
    chosen = [index for part in parts for index in part]
    assert len(parts) == min(number, most)
    assert len(set(chosen)) == len(chosen)  # no two parts can take the same frame
    assert 0 <= min(chosen) <= max(chosen) < number


def test_claimed_frames_that_are_not_there() -> None:
    ds = data_set(np.zeros((2, 8, 8), np.uint8), frames=2_000_000_000)
    image = read_image(file_of(ds))
    assert image.number_of_frames == 2
    assert any("only 2 are there" in sentence for sentence in image.assumptions)


# What the file says


def test_tags_are_permitted_ones_only() -> None:
    ds = windowed_ramp()
    ds.StudyDescription, ds.PatientAge, ds.Manufacturer, ds.BodyPartExamined = (
        "Jane Doe",
        "093Y",
        "ACME",
        "CHEST",
    )
    ds.PixelSpacing = [0.5, 0.25]
    image = read_image(file_of(ds))
    assert (image.modality, image.body_part_examined, image.bits_stored) == ("CT", "CHEST", 12)
    assert (image.patient_id, image.sop_instance_uid) == ("PID-4711", "1.2.3.1")
    assert image.tags["PixelSpacing"] == [0.5, 0.25]
    assert image.tags["PatientAge"] == "090Y"
    assert "Jane" not in str(image.tags)
    assert "4711" not in str(image.tags)


@pytest.mark.parametrize(("age", "kept"), [("009Y", "009Y"), ("9Y", "9Y"), ("999M", "999M"), ("old", None)])
def test_age_below_ninety_is_kept(age: str, kept: str | None) -> None:
    ds = windowed_ramp()
    ds.PatientAge = age
    assert read_image(file_of(ds)).tags.get("PatientAge") == kept


def test_missing_header_is_assumed() -> None:
    ds = windowed_ramp()
    del ds.file_meta
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, implicit_vr=True, little_endian=True)
    image = read_image(buffer.getvalue())
    assert np.array_equal(image.frames[0].pixels, pixels_of(windowed_ramp()))
    assert "Implicit VR Little Endian was assumed" in " ".join(image.assumptions)


# What is refused


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "not_an_image"),
        (b"%PDF-1.7", "not_an_image"),
        (bytes(128) + b"DICM", "damaged"),
        (b"\xff\xd8\xff\xe0 no picture", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
def test_no_image(content: bytes, code: str) -> None:
    assert rejection(content).code == code


def test_object_without_pixels_is_named() -> None:
    ds = windowed_ramp()
    del ds.PixelData
    ds.SOPClassUID = uid.BasicTextSRStorage
    rejected = rejection(file_of(ds))
    assert rejected.code == "no_pixel_data"
    assert "Basic Text SR" in rejected.sentence


def test_truncated_pixel_data() -> None:
    content = file_of(windowed_ramp())
    assert rejection(content[:-3000]).code == "damaged"
    image = read_image(content[:-60])
    assert any("missing" in sentence for sentence in image.assumptions)


def test_damaged_lossless_jpeg_is_noticed() -> None:
    stream = bytearray(imagecodecs.jpeg8_encode(RAMP, lossless=True, bitspersample=12))
    middle = len(stream) // 2
    stream[middle : middle + 8] = bytes(byte ^ 0x55 for byte in stream[middle : middle + 8])
    ds = compressed(windowed_ramp(), uid.JPEGLosslessSV1, bytes(stream))
    assert rejection(file_of(ds)).code == "damaged"


def test_unknown_transfer_syntax() -> None:
    ds = compressed(windowed_ramp(), "1.2.840.10008.1.2.4.100", b"mpeg")
    rejected = rejection(file_of(ds))
    assert rejected.code == "unsupported_transfer_syntax"
    assert "MPEG2" in rejected.sentence


def test_absurd_size() -> None:
    assert rejection(file_of(data_set(RAMP, Rows=65535, Columns=65535))).code == "too_large"


@pytest.mark.parametrize("damage_group_length", [False, True])
def test_deflate_bomb(damage_group_length: bool) -> None:
    ds = data_set(np.zeros((9000, 9000), np.uint16))
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    content = bytearray(file_of(ds))
    assert len(content) < 1_000_000
    if damage_group_length:
        content[140:144] = bytes(4)
    assert rejection(bytes(content)).code == "too_large"


def test_codestream_larger_than_rows_and_columns_say() -> None:
    stream = bytearray(imagecodecs.jpeg2k_encode(RAMP, level=0, codecformat="j2k"))
    size = stream.index(b"\xff\x51") + 6
    stream[size : size + 8] = (60000).to_bytes(4, "big") * 2
    ds = compressed(windowed_ramp(), uid.JPEG2000Lossless, bytes(stream))
    assert rejection(file_of(ds)).code == "damaged"


def test_picture_bomb() -> None:
    bomb = picture(Image.new("1", (30000, 30000)), "PNG")
    assert len(bomb) < 200_000
    assert rejection(bomb).code == "too_large"


# Pictures


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_lossless_pictures(file_format: str) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = read_image(picture(Image.fromarray(grey), file_format))
    assert np.array_equal(image.frames[0].pixels, grey)
    assert (image.file_format, image.modality, image.rows, image.columns) == (file_format, "", 8, 32)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_pictures_are_windowed(file_format: str) -> None:
    image = read_image(picture(Image.fromarray(RAMP), file_format))
    pixels = image.frames[0].pixels
    assert (pixels.min(), pixels.max(), image.bits_stored) == (0, 255, 16)
    assert np.all(np.diff(pixels.ravel().astype(int)) >= 0)


def test_colour_and_transparency() -> None:
    colour = Image.fromarray(COLOURS)
    assert set(np.unique(read_image(picture(colour, "PNG")).frames[0].pixels)) == {COLOURS_GREY}
    colour.putalpha(0)
    assert read_image(picture(colour, "PNG")).frames[0].pixels.max() == 0


@pytest.mark.parametrize("file_format", ["JPEG", "MPO"])
def test_jpeg_is_turned_upright(file_format: str) -> None:
    grey = np.zeros((16, 32), np.uint8)
    grey[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    more = {"save_all": True, "append_images": [Image.fromarray(grey)]} if file_format == "MPO" else {}
    image = read_image(picture(Image.fromarray(grey), file_format, exif=exif, **more))
    assert (image.file_format, image.number_of_frames) == ("JPEG", 1)
    pixels = image.frames[0].pixels
    assert pixels.shape == (32, 16)
    assert pixels[:12].mean() > 240
    assert pixels[20:].mean() < 15


def test_pages_of_a_tiff_are_frames() -> None:
    pages = [Image.new("L", (4, 4), 10 * number) for number in range(12)]
    content = picture(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    image = read_image(content, SliceRule(most=3))
    assert image.number_of_frames == 12
    assert [frame.frame_number for frame in image.frames] == [3, 7, 11]
    assert [frame.pixels[0, 0] for frame in image.frames] == [20, 60, 100]


# Whatever the bytes are


def seeds() -> list[bytes]:
    rle = windowed_ramp()
    rle.compress(uid.RLELossless, generate_instance_uid=False)
    jpeg_2000 = imagecodecs.jpeg2k_encode(RAMP, level=0, codecformat="j2k")
    return [
        file_of(windowed_ramp()),
        file_of(rle),
        file_of(compressed(windowed_ramp(), uid.JPEG2000Lossless, jpeg_2000)),
        file_of(compressed(windowed_ramp(), uid.JPEGLSLossless, imagecodecs.jpegls_encode(RAMP))),
        picture(Image.fromarray(COLOURS), "PNG"),
        picture(Image.fromarray(COLOURS), "JPEG"),
        picture(Image.fromarray(RAMP), "TIFF"),
    ]


SEEDS = seeds()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=8)), max_size=12),
    length=st.integers(0, 10_000),
)
def test_any_bytes_are_read_or_rejected(seed: bytes, changes: list[tuple[int, bytes]], length: int) -> None:
    content = bytearray(seed)
    for position, new in changes:
        start = position % len(content)
        content[start : start + len(new)] = new
    image = read_or_none(bytes(content[: max(length, 1)]) if length % 3 == 0 else bytes(content))
    if image:
        assert all(f.pixels.dtype == np.uint8 and f.pixels.ndim == 2 for f in image.frames)


# Real files


def real_files() -> list[Any]:
    manifest = SHARED / "dicom" / "dicom_manifest.csv"
    if not manifest.exists():
        reason = "the folder of real images beside the project is absent"
        return [pytest.param("", "", marks=pytest.mark.skip(reason=reason))]
    with manifest.open() as file:
        return [pytest.param(row["path"], row["decodes"], id=row["path"]) for row in csv.DictReader(file)]


@pytest.mark.shared_data
@pytest.mark.parametrize(("path", "decodes"), real_files())
def test_real_file(path: str, decodes: str) -> None:
    """Read where anything can decode it, but for the one that inflates to 400 MB; else read or refused."""
    content = (SHARED / "dicom" / path).read_bytes()
    image = read_or_none(content)
    if decodes != "no" and "deflate_bomb" not in path:
        assert image
        assert all(frame.pixels.dtype == np.uint8 for frame in image.frames)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="the folder of real images beside the project is absent")
def test_real_slice_looks_the_same_in_every_transfer_syntax() -> None:
    reference = read_image((SHARED / "dicom/ct_onescene_implicit_le.dcm").read_bytes()).frames[0].pixels
    for path in sorted((SHARED / "dicom").glob("ct_onescene_*.dcm")):
        pixels = read_image(path.read_bytes()).frames[0].pixels
        # The 8-bit ones were windowed before they were compressed, a little differently.
        largest_mean = 6 if "8bit" in path.name else 2
        assert np.abs(pixels.astype(int) - reference).mean() < largest_mean, path.name
