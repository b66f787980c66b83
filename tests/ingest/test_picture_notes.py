"""Pictures lose what is noted beside their pixels, and look the same."""

import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.files.storage import default_storage
from PIL import ExifTags, ImageCms, PngImagePlugin, TiffImagePlugin
from PIL import Image as PillowImage

from ingest import tiff_notes
from ingest.checking import check_images, check_ledger, check_storage
from ingest.image_file import RejectedFile
from ingest.importing import import_queued
from ingest.models import Dataset, FileState, Image, UploadBatch
from ingest.picture_notes import orientation_of, without_notes
from ingest.reading import read_image
from ingest.receiving import open_batch, receive_file
from ingest.tiff_notes import tiff_without_notes
from tests.factories import make_pixels
from tests.ingest.test_deidentifying import everything_stored

SECRET = b"Meier, Annabel"
SECRET_TEXT = SECRET.decode()
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6">'
    f"{SECRET_TEXT}</rdf:Description></rdf:RDF></x:xmpmeta>"
).encode()


def picture(mode: str = "L", seed: int = 0) -> PillowImage.Image:
    """Not square, so that its turned self is another."""
    grey = make_pixels(seed)[:48]
    if mode == "I;16":
        return PillowImage.fromarray(grey.astype(np.uint16) * 200)
    if mode in ("I", "F"):
        return PillowImage.fromarray(grey.astype({"I": np.int32, "F": np.float32}[mode]) * 300)
    if mode in ("RGBA", "LA"):
        image = PillowImage.fromarray(np.stack([grey, 255 - grey, grey // 2, 255 - grey], axis=2), "RGBA")
        return image.convert(mode)
    return PillowImage.fromarray(np.stack([grey, 255 - grey, grey // 2], axis=2)).convert(mode)


def saved(image: PillowImage.Image, file_format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif(orientation: int | None = None) -> PillowImage.Exif:
    noted = PillowImage.Exif()
    noted[ExifTags.Base.Artist] = SECRET_TEXT
    noted[ExifTags.Base.ImageDescription] = SECRET_TEXT
    noted.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAreaInformation] = SECRET
    if orientation:
        noted[ExifTags.Base.Orientation] = orientation
    return noted


def noted_png(mode: str = "L", orientation: int | None = None, **options: Any) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET_TEXT)
    info.add_itxt("Comment", SECRET_TEXT, zip=False)
    info.add_text("Patient", SECRET_TEXT * 9, zip=True)
    return saved(picture(mode), "PNG", pnginfo=info, exif=exif(orientation), **options) + SECRET


def noted_jpeg(mode: str = "RGB", orientation: int | None = None, **options: Any) -> bytes:
    content = saved(picture(mode), "JPEG", exif=exif(orientation), comment=SECRET, **options)
    photoshop = b"Photoshop 3.0\08BIM\x04\x04" + SECRET
    return with_segment(content, 0xED, photoshop) + SECRET


def with_segment(content: bytes, marker: int, payload: bytes) -> bytes:
    return content[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + content[2:]


def noted_tiff(*modes: str, orientation: int | None = None, **options: Any) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = tags[315] = tags[33432] = SECRET_TEXT
    tags[33723] = tags[34377] = SECRET
    tags.tagtype[33723] = tags.tagtype[34377] = 7
    if orientation:
        tags[274] = orientation
    first, *others = [picture(mode, seed) for seed, mode in enumerate(modes or ("L",))]
    return saved(first, "TIFF", tiffinfo=tags, save_all=True, append_images=others, **options) + SECRET


def assert_cleaned(content: bytes) -> bytes:
    """Without its notes, and the same to look at; returned."""
    kept = without_notes(content)
    assert SECRET in content
    assert SECRET not in kept
    before, after = read_image(content), read_image(kept)
    assert (after.file_format, after.bits_stored) == (before.file_format, before.bits_stored)
    assert after.number_of_frames == before.number_of_frames
    for one, other in zip(before.frames, after.frames, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
    assert without_notes(kept) == kept
    return kept


def decoded(content: bytes) -> list[np.ndarray]:
    pages = []
    with PillowImage.open(BytesIO(content)) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            pages.append(np.asarray(image))
    return pages


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_png(mode: str) -> None:
    content = noted_png(mode)
    kept = assert_cleaned(content)
    assert b"eXIf" not in kept
    assert np.array_equal(decoded(kept)[0], decoded(content)[0])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(mode: str, options: dict[str, Any]) -> None:
    content = noted_jpeg(mode, **options)
    kept = assert_cleaned(content)
    assert b"Exif" not in kept
    assert kept == saved(picture(mode), "JPEG", **options)  # as encoded: not a byte of the picture differs


def test_a_jpeg_loses_thumbnails_and_further_pictures() -> None:
    jfif = b"JFIF\0\1\1\0\0\1\0\1\2\2" + SECRET[:12]
    content = saved(picture(), "JPEG")
    assert content[2:4] == b"\xff\xe0"
    content = content[:2] + content[20:]
    kept = assert_cleaned(with_segment(content, 0xE0, jfif + SECRET))
    assert kept == saved(picture(), "JPEG").replace(b"JFIF\0\1\1\0\0\1\0\1\0\0", b"JFIF\0\1\1\0\0\1\0\1\0\0")
    further = saved(picture(), "MPO", save_all=True, append_images=[picture(seed=1)], exif=exif())
    assert assert_cleaned(further).count(b"\xff\xd8\xff") == 1


@pytest.mark.parametrize("rubbish", [b"\xff" * 7, b"rubbish", SECRET])
def test_a_jpeg_with_rubbish_between_its_segments(rubbish: bytes) -> None:
    content = noted_jpeg().replace(b"\xff\xdb", rubbish + b"\xff\xdb", 1)
    assert assert_cleaned(content) == saved(picture("RGB"), "JPEG")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("make", [noted_png, noted_jpeg, noted_tiff])
def test_which_side_is_up_stays(make: Any, orientation: int) -> None:
    kept = assert_cleaned(make(orientation=orientation))
    assert orientation_of(kept) == orientation


def test_which_side_is_up_by_xmp_alone() -> None:
    jpeg = with_segment(saved(picture(), "JPEG"), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = XMP
    tags.tagtype[700] = 1
    assert orientation_of(assert_cleaned(jpeg)) == 6
    assert orientation_of(assert_cleaned(saved(picture(), "PNG", pnginfo=info))) == 6
    tiff = saved(picture(), "TIFF", tiffinfo=tags)
    kept = assert_cleaned(tiff)
    assert read_image(kept).frames[0].pixels.shape == (64, 48)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_colour_profiles_stay(file_format: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = without_notes(saved(picture("RGB"), file_format, icc_profile=profile))
    with PillowImage.open(BytesIO(kept)) as image:
        assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_a_picture_without_notes_stays_the_same_bytes(file_format: str) -> None:
    content = saved(picture("RGB"), file_format)
    assert without_notes(content) == content


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}])
def test_tiff(mode: str, options: dict[str, Any]) -> None:
    content = noted_tiff(mode, **options)
    kept = assert_cleaned(content)
    assert tiff_without_notes(content) == kept  # not written anew from its pixels
    assert np.array_equal(decoded(kept)[0], decoded(content)[0])


@pytest.mark.parametrize(
    ("compression", "mode"),
    [("group4", "1"), ("packbits", "L"), ("jpeg", "RGB"), ("tiff_adobe_deflate", "I;16")],
)
def test_compressed_pages_of_a_tiff(compression: str, mode: str) -> None:
    content = noted_tiff(mode, mode, mode, compression=compression)
    kept = assert_cleaned(content)
    for one, other in zip(decoded(content), decoded(kept), strict=True):
        assert np.array_equal(one, other)


def test_a_tiff_of_the_other_byte_order() -> None:
    image = PillowImage.fromarray((make_pixels().astype(np.uint16) * 200).astype(">u2"))
    assert image.mode == "I;16B"
    content = saved(image, "TIFF", artist=SECRET_TEXT)
    assert content.startswith(b"MM")
    assert tiff_without_notes(content) == assert_cleaned(content)


def test_an_odd_tiff_is_written_anew() -> None:
    """Without the lengths of its strips, which readers guess."""
    content = bytearray(noted_tiff("I;16", "RGB"))
    place = struct.unpack_from("<I", content, 4)[0]
    number = struct.unpack_from("<H", content, place)[0]
    for entry in range(place + 2, place + 2 + 12 * number, 12):
        if struct.unpack_from("<H", content, entry) == (279,):
            content[entry : entry + 2] = struct.pack("<H", 65000)
    assert tiff_without_notes(bytes(content)) == b""
    assert_cleaned(bytes(content))


def test_a_tiff_whose_strips_are_one_is_not_blown_up() -> None:
    content = noted_tiff("L")
    assert len(without_notes(content)) < len(content)
    tiff = tiff_notes.Tiff(content)
    assert len({*tiff.copy([8] * 1000, [1000] * 1000)}) == 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp(mode: str) -> None:
    content = saved(picture(mode), "BMP")
    assert assert_cleaned(content + SECRET) == content


@pytest.mark.parametrize("make", [noted_png, noted_jpeg, noted_tiff])
def test_a_picture_that_is_cut_off_is_rejected_or_read_but_never_noted(make: Any) -> None:
    content = make()
    for size in range(4, len(content), 37):
        with suppress(RejectedFile):
            assert SECRET not in without_notes(content[:size])


@pytest.mark.shared_data
def test_real_pictures_look_the_same_after(shared_data: Path) -> None:
    paths = sorted((shared_data / "organs").rglob("*.*"))[::40]
    for path in paths:
        content = path.read_bytes()
        before, after = read_image(content), read_image(without_notes(content))
        assert np.array_equal(before.frames[0].pixels, after.frames[0].pixels), path.name
    assert len(paths) > 90


# Imports


@pytest.fixture
def batch(db: None) -> UploadBatch:
    return open_batch("ward", "dicom", None)


NOTED = {"a.png": noted_png(), "b.jpg": noted_jpeg(), "c.tif": noted_tiff("L", "L"), "d.bmp": b""}
NOTED["d.bmp"] = saved(picture("RGB"), "BMP") + SECRET


def receive(batch: UploadBatch) -> None:
    for name, content in NOTED.items():
        receive_file(batch, name, content)
    import_queued()


def test_nothing_noted_is_stored_by_an_import(batch: UploadBatch, media_root: Path) -> None:
    receive(batch)
    assert {*batch.files.values_list("state", flat=True)} == {FileState.IMPORTED}
    assert SECRET not in everything_stored(media_root)
    findings = [*check_ledger(), *check_images(deep=True), *check_storage()]
    assert [finding.code for finding in findings if finding.count] == []


def test_the_same_pictures_are_known_again_and_leave_nothing(batch: UploadBatch, media_root: Path) -> None:
    receive(batch)
    again = open_batch("ward", "dicom", None)
    receive(again)
    assert {*again.files.values_list("state", flat=True)} == {FileState.DUPLICATE}
    assert Image.objects.count() == 5
    assert SECRET not in everything_stored(media_root)


def test_a_lost_original_comes_back_without_notes(batch: UploadBatch, media_root: Path) -> None:
    receive(batch)
    names = {str(image.original.name) for image in Image.objects.all()}
    for name in names:
        default_storage.delete(name)
    receive(open_batch("ward", "dicom", None))
    assert all(map(default_storage.exists, names))
    assert SECRET not in everything_stored(media_root)


def test_a_data_set_that_keeps_identifiers_keeps_the_notes(batch: UploadBatch, client_of: Any) -> None:
    Dataset.objects.filter(pk=batch.dataset_id).update(keeps_identifiers=True)
    receive(batch)
    for row in batch.files.all():
        image = Image.objects.filter(uploaded_file=row).first()
        assert image
        with image.original.open() as file:
            assert file.read() == NOTED[row.path]
    page = client_of("admin").get(f"/imports/datasets/{batch.dataset_id}/").content.decode()
    assert "pictures with what is noted beside their pixels (EXIF, GPS, comments)" in page  # of the setting
    assert "pictures with their notes (EXIF, GPS, comments)" in page  # the warning
