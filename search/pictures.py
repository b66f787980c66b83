"""The pictures of queries: read from files and from the collection, and cut."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from ingest.naming import DICOM_MODALITIES
from ingest.pseudonyms import group_key_of
from ingest.reading import read_image
from ingest.renditions import decode_rendition, network_rendition, preview, read_rendition
from ingest.storing import store_once
from search.models import Query

Region = Sequence[float]  # left, top, right, bottom of a part of a picture, each 0 to 1


def query_rendition(query: Query) -> NDArray[np.uint8]:
    """uint8 (256, 256); also stores the preview, patient group and modality of an uploaded file or a region.

    Raises RejectedFile.
    """
    if query.rendition:
        return read_rendition(query.rendition)
    if query.region is not None:
        return store_pictures(query, np.ascontiguousarray(pixels_of(query)), f"queries/regions/{query.pk}")
    if query.image:
        return read_rendition(query.image.rendition)
    with query.upload.open() as file:
        image = read_image(file.read(), middle_frame_only=True)
    query.group_key = query.group_key or group_key_of(image, query.sha256)
    query.modality = image.modality if image.modality in DICOM_MODALITIES else ""
    return store_pictures(query, image.frames[0].pixels, f"queries/{query.sha256[:2]}/{query.sha256}")


def pixels_of(query: Query) -> NDArray[np.uint8]:
    """uint8 (rows, columns): the whole picture in its own size, for a region its part of it."""
    if query.region is not None and query.parent is not None:
        pixels = pixels_of(query.parent)
        left, top, right, bottom = edges_in_pixels(query.region, *pixels.shape)
        return pixels[top:bottom, left:right]
    if query.image:
        with query.image.original.open() as file:
            return read_image(file.read(), frame=query.image.frame_number).frames[0].pixels
    with query.upload.open() as file:
        return read_image(file.read(), middle_frame_only=True).frames[0].pixels


def edges_in_pixels(region: Region, rows: int, columns: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = region
    return round(left * columns), round(top * rows), round(right * columns), round(bottom * rows)


def size_as_shown(query: Query, region: Region) -> tuple[int, int]:
    """Rows and columns of a part of the preview, which is never larger than the picture.

    Raises OSError where the preview is gone.
    """
    with query.preview.open("rb") as file, PillowImage.open(file) as picture:
        left, top, right, bottom = edges_in_pixels(region, picture.height, picture.width)
    return bottom - top, right - left


def store_pictures(query: Query, pixels: NDArray[np.uint8], stem: str) -> NDArray[np.uint8]:
    """Returns the rendition, uint8 (256, 256).

    Only the query's own files are saved: of several images as one, each may be answered by another worker at
    the same time.
    """
    rendition, picture = network_rendition(pixels), preview(pixels)
    query.preview = store_once(f"{stem}.preview.jpg", picture, len(picture))
    query.rendition = store_once(f"{stem}.rendition.png", rendition, len(rendition))
    query.file_name = ""
    query.save(update_fields=["preview", "rendition", "group_key", "modality", "file_name"])
    return decode_rendition(BytesIO(rendition))
