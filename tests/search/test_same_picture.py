"""One picture in many shapes is one; other patients, and pictures that show nothing, are others."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageEnhance

from ingest.phantoms import PHANTOMS
from ingest.phantoms.writing import make_phantom
from ingest.reading import read_image
from ingest.renditions import RENDITION_SIZE, decode_rendition, network_rendition
from search.same_picture import aligned, shows_the_same, smaller

Picture = PillowImage.Image
KINDS = {f"{each.organ} {each.modality}": each for each in PHANTOMS}


def phantom(kind: str = "brain MR", patient: int = 0) -> Picture:
    file = BytesIO()
    make_phantom(KINDS[kind], patient, number=1, slices=1).save_as(file, enforce_file_format=True)
    return PillowImage.fromarray(read_image(file.getvalue()).frames[0].pixels)


def rendition(picture: Picture) -> np.ndarray:
    return decode_rendition(BytesIO(network_rendition(np.asarray(picture.convert("L")))))


def encoded_anew(picture: Picture) -> Picture:
    file = BytesIO()
    picture.save(file, "JPEG", quality=60)
    return PillowImage.open(file)


def brightened(picture: Picture) -> Picture:
    return ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(1.1)).enhance(1.1)


def cropped(picture: Picture) -> Picture:
    x, y = round(0.02 * picture.width), round(0.02 * picture.height)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def annotated(picture: Picture) -> Picture:
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    draw.rectangle((4, 4, picture.width // 3, picture.height // 10), fill=0)
    draw.text((8, 6), "R 12:34", fill=255)
    return picture


def smaller_by_a_fifth(picture: Picture) -> Picture:
    return picture.resize((picture.width * 4 // 5, picture.height * 4 // 5))


@pytest.mark.parametrize("change", [encoded_anew, smaller_by_a_fifth, brightened, cropped, annotated])
@pytest.mark.parametrize("kind", ["brain MR", "lungs CT", "knee MR"])
def test_a_changed_picture_is_the_same(kind: str, change: Callable[[Picture], Picture]) -> None:
    picture = phantom(kind)
    assert shows_the_same(rendition(picture), rendition(change(picture)))
    assert shows_the_same(rendition(change(picture)), rendition(picture))


@pytest.mark.parametrize("kind", ["brain MR", "kidney US", "liver CT", "lungs CT", "spine MR", "teeth DX"])
def test_another_patient_is_not(kind: str) -> None:
    assert not shows_the_same(rendition(phantom(kind, 0)), rendition(phantom(kind, 1)))


@pytest.mark.parametrize("change", [PillowImage.Image.rotate, None], ids=["a quarter turn", "negative"])
def test_turned_and_inverted_pictures_are_others(change: Callable[..., Picture] | None) -> None:
    ours = rendition(phantom())
    theirs = rendition(change(phantom(), 90)) if change else 255 - ours
    assert not shows_the_same(ours, theirs)


def test_pictures_without_contrast_show_nothing() -> None:
    black = np.zeros((RENDITION_SIZE, RENDITION_SIZE), np.uint8)
    assert not shows_the_same(black, black)
    assert not shows_the_same(black, rendition(phantom()))


def test_a_large_move_is_not_followed() -> None:
    picture = smaller(rendition(phantom()))
    assert aligned(picture, np.roll(picture, 2, axis=1)) is not None
    assert aligned(picture, np.roll(picture, 12, axis=1)) is None
