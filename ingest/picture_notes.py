"""Pictures without what is noted beside their pixels: EXIF, GPS, IPTC, XMP, comments, thumbnails.

The pixels stay as they are encoded. What is needed to show them stays: palettes, colour profiles, and which
side is up. A picture without notes stays the same bytes.
"""

import re
import struct
import warnings
from io import BytesIO
from zlib import crc32

from PIL import ExifTags, Image

from ingest.image_file import MAX_BYTES, NOT_AN_IMAGE, RejectedFile, check_size
from ingest.masking import blackened_page
from ingest.pictures import format_of
from ingest.tiff_notes import tiff_without_notes

UPRIGHT = 1  # EXIF's Orientation
PNG_CHUNKS = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"pHYs"),
    *(b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP"),
}
SOI, EOI, SOS, APP0, APP1, APP15, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEF, 0xFE  # JPEG's markers
WITHOUT_LENGTH = {0x00, 0x01, SOI, *range(0xD0, 0xD8)}
AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # the first marker that is not part of the scan
JFIF, PROFILE, ADOBE = b"JFIF\0", b"ICC_PROFILE\0", b"Adobe"
JFIF_BYTES = 12  # without its thumbnail
BMP_UNCOMPRESSED = {0, 3, 6}


def without_notes(content: bytes) -> bytes:
    """A PNG, JPEG, TIFF or BMP picture without its notes. Raises RejectedFile."""
    file_format = format_of(content)
    if not file_format:
        raise RejectedFile(*NOT_AN_IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return kept_of_picture(content, file_format)
        except RejectedFile:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds
            raise RejectedFile("damaged", "The picture is damaged or cut off.") from error


def kept_of_picture(content: bytes, file_format: str) -> bytes:
    if file_format == "TIFF":
        return tiff_without_notes(content) or tiff_without_notes(written_anew(content))
    if file_format == "BMP":
        return bmp_without_notes(content)
    kept = png_without_notes(content) if file_format == "PNG" else jpeg_without_notes(content)
    return kept if kept == content else with_orientation(kept, file_format, orientation_of(content))


def orientation_of(content: bytes) -> int:
    """As reading takes it: of EXIF, else of XMP (Pillow's exif_transpose)."""
    with Image.open(BytesIO(content), formats=[format_of(content)]) as picture:
        return int(picture.getexif().get(ExifTags.Base.Orientation, UPRIGHT))


def with_orientation(content: bytes, file_format: str, orientation: int) -> bytes:
    """The picture with EXIF that says nothing but which side is up."""
    if not UPRIGHT < orientation <= 8:
        return content
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    noted = exif.tobytes()
    if file_format == "JPEG":
        return content[:2] + struct.pack(">BBH", 0xFF, APP1, len(noted) + 2) + noted + content[2:]
    chunk = b"eXIf" + noted.removeprefix(b"Exif\0\0")
    after_header = 8 + 25  # of the signature and IHDR
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", crc32(chunk))
    return content[:after_header] + framed + content[after_header:]


def png_without_notes(content: bytes) -> bytes:
    kept, place = [content[:8]], 8
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind in PNG_CHUNKS:
            kept.append(content[place : place + length + 12])
        place += length + 12
        if kind == b"IEND":
            break
    return b"".join(kept)


def jpeg_without_notes(content: bytes) -> bytes:
    """Without application segments and comments, but those that tell how its colours are meant."""
    kept, place = [content[:2]], 2
    while (place := content.find(b"\xff", place)) >= 0 and place + 4 <= len(content):
        marker, length = struct.unpack_from(">BH", content, place + 1)
        if marker == EOI:
            break
        if marker == 0xFF or marker in WITHOUT_LENGTH:
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + length
        if marker == SOS:
            after = AFTER_SCAN.search(content, end)
            end = after.start() if after else len(content)
        kept.append(kept_of_segment(marker, content[place:end]))
        place = end
    return b"".join([*kept, bytes([0xFF, EOI])])


def kept_of_segment(marker: int, segment: bytes) -> bytes:
    if marker == APP0 and segment[4:].startswith(JFIF):
        return segment[:2] + struct.pack(">H", JFIF_BYTES + 4) + segment[4:][:JFIF_BYTES] + bytes(2)
    is_note = marker == COM or APP0 <= marker <= APP15
    return b"" if is_note and not segment[4:].startswith((PROFILE, ADOBE)) else segment


def bmp_without_notes(content: bytes) -> bytes:
    """Up to the end of its pixels, where that is to be known."""
    pixels, header = struct.unpack_from("<II", content, 10)
    if header < 40:  # of OS/2, with which nothing else comes
        return content
    columns, rows, _, bits, compression, size = struct.unpack_from("<iiHHII", content, 18)
    if compression in BMP_UNCOMPRESSED:
        size = (columns * bits + 31) // 32 * 4 * abs(rows)
    return content[: pixels + size] if size else content


def written_anew(content: bytes) -> bytes:
    """The pixels of an odd TIFF alone, upright, without loss."""
    pages, total = [], 0
    with Image.open(BytesIO(content), formats=["TIFF"]) as picture:
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            check_size(picture.height, picture.width)
            pages.append(blackened_page(picture, []))
            total += 4 * pages[-1].height * pages[-1].width
            if total > MAX_BYTES:
                raise RejectedFile("too_large", "The picture is too large to be freed of its notes.")
    buffer = BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    return buffer.getvalue()
