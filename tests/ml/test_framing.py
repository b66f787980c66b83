"""The part of an image that shows something."""

import numba
import numpy as np
import pytest
import torch

from ml import compiled
from ml.augmentation import augment
from ml.framing import content_edges
from ml.preprocess import Preprocessing
from ml.recipes import Augmentation

FRAMED = Preprocessing(mean=0.0, std=1.0, framed=True)


def picture(top: int, bottom: int, left: int, right: int, background: int = 0) -> np.ndarray:
    """A bright ramp on a plain background: uint8 (256, 256)."""
    image = np.full((256, 256), background, np.uint8)
    image[top:bottom, left:right] = np.linspace(140, 250, right - left)
    return image


def frame_of(image: np.ndarray) -> list[int]:
    edges: list[int] = content_edges(image[np.newaxis])[0].tolist()
    return edges


@pytest.mark.parametrize("background", [0, 90])
@pytest.mark.parametrize("where", [(40, 200, 60, 220), (100, 256, 0, 140), (0, 256, 80, 180)])
def test_the_frame_holds_what_differs_from_the_background(
    where: tuple[int, int, int, int], background: int
) -> None:
    assert frame_of(picture(*where, background)) == pytest.approx(where, abs=10)


def test_a_marker_beside_it_does_not_widen_the_frame() -> None:
    image = picture(80, 220, 60, 200)
    image[10:18, 230:242] = 255
    assert frame_of(image) == pytest.approx((80, 220, 60, 200), abs=10)


@pytest.mark.parametrize(
    "image",
    [np.zeros((256, 256), np.uint8), np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)],
    ids=["nothing", "everything"],
)
def test_where_nothing_or_everything_shows_something_the_frame_is_the_image(image: np.ndarray) -> None:
    assert frame_of(image) == [0, 256, 0, 256]


def test_a_small_thing_is_not_enlarged_beyond_reason() -> None:
    top, bottom, left, right = frame_of(picture(120, 126, 120, 126))
    assert (bottom - top, right - left) == pytest.approx((102, 102), abs=2)


def test_margins_do_not_count() -> None:
    small, large = picture(60, 180, 80, 200), picture(10, 250, 5, 245)
    seen = FRAMED(np.stack([small, large]))
    assert (seen.shape, seen.dtype) == ((2, 1, 224, 224), torch.float32)
    assert (seen[0] - seen[1]).abs().mean() < 0.05
    unframed = Preprocessing(0.0, 1.0)(np.stack([small, large]))
    assert (unframed[0] - unframed[1]).abs().mean() > 0.3


def test_a_changed_picture_is_seen_in_the_frame_of_the_other() -> None:
    image = picture(90, 170, 100, 190)
    changed = image.copy()
    changed[:40, :40] = 200  # would widen the frame
    assert torch.equal(FRAMED(changed[None], framed_as=image), FRAMED(image[None]))
    assert not torch.equal(FRAMED(changed[None]), FRAMED(image[None]))


def test_views_to_learn_from_lie_around_the_frame() -> None:
    still = Augmentation(
        rotation=0, scale=(1, 1), stretch=0, shift=0, gamma=0, any_curve=0, curve=0, contrast=0,
        brightness=0, shading=0, negative=0, noise=0,
    )  # fmt: skip
    images = np.stack([picture(90, 170, 100, 190)] * 8)
    views = augment(images, FRAMED, still, np.random.default_rng(0))
    plain = FRAMED(images[:1])[0]
    for view in views:
        assert min((view - other).abs().mean() for other in (plain, plain.flip(-1))) < 0.02


def test_where_nothing_can_be_written_each_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def njit(cache: bool = False, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compiled, "njit", njit)
    assert compiled.machine_code(lambda x: x + 1)(1) == 2
