"""The picture for the network and the picture for people."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ingest.renditions import decode_rendition, network_rendition, preview


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (256, 256), (2000, 1500)])
def test_network_rendition_is_256_square_grey_png(shape: tuple[int, int]) -> None:
    content = network_rendition(np.full(shape, 77, np.uint8))
    with Image.open(BytesIO(content)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (256, 256))
    assert set(np.unique(decode_rendition(BytesIO(content)))) == {77}


def test_network_rendition_of_the_right_size_is_exact() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (256, 256), dtype=np.uint8)
    assert np.array_equal(decode_rendition(BytesIO(network_rendition(pixels))), pixels)


def test_network_rendition_keeps_the_whole_picture() -> None:
    pixels = np.zeros((100, 400), np.uint8)
    pixels[:, 300:] = 255
    rendition = decode_rendition(BytesIO(network_rendition(pixels)))
    assert rendition[:, :188].max() == 0
    assert rendition[:, 196:].min() == 255


def test_network_rendition_is_antialiased() -> None:
    checks = np.indices((1024, 1024)).sum(axis=0) % 2 * 255
    rendition = decode_rendition(BytesIO(network_rendition(checks.astype(np.uint8))))
    assert np.abs(rendition.astype(int) - 128).max() <= 2


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2048, 1024), (512, 1024)), ((500, 4000), (1024, 128)), ((40, 30), (30, 40)), ((1, 5000), (1024, 1))],
)
def test_preview_keeps_the_aspect_and_is_never_enlarged(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    with Image.open(BytesIO(preview(np.full(shape, 200, np.uint8)))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "L", size)
        assert abs(int(np.asarray(picture).mean()) - 200) <= 1
