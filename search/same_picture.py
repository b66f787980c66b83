"""Whether two renditions show one picture: re-encoded, resized, brightened, cropped a little, annotated.

One is laid over the other (ECC: Evangelidis and Psarakis, IEEE TPAMI 30(10), 2008), and they are compared
square by square: outlines are alike in many pictures, what is inside them is not. A note burned in spoils the
squares that it covers, and no others. How well that tells pictures apart: benchmarks/duplicates.py.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 96  # pixels a side: what compressing changes is smaller
SQUARE = 8  # pixels a side
LEAST_CONTRAST = 2.0  # grey levels, standard deviation: a flatter square tells nothing
LEAST_SQUARES = 4  # of some contrast
CORRELATION = 0.9  # of two squares of the same
AGREEING = 0.7  # of the squares
FARTHEST = 0.045 * SIZE  # pixels that a corner is moved at most
MOST_STEPS, SMALLEST_GAIN, SMOOTHED_OVER = 30, 1e-4, 5  # of ECC

Grey = NDArray[np.float32]


def shows_the_same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """From two uint8 (256, 256). Pictures without any contrast show nothing, and so not the same."""
    first, second = smaller(one), smaller(other)
    if share_alike(first, second) >= AGREEING:
        return True
    laid_over = aligned(first, second)
    return laid_over is not None and share_alike(first, laid_over) >= AGREEING


def smaller(rendition: NDArray[np.uint8]) -> Grey:
    return np.asarray(cv2.resize(rendition, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.float32)


def share_alike(one: Grey, other: Grey) -> float:
    """Of the squares with some contrast, those whose grey values go up and down together: 0 to 1."""
    first, second = squares_of(one), squares_of(other)
    contrast, its = first.std(axis=1), second.std(axis=1)
    tells = np.maximum(contrast, its) >= LEAST_CONTRAST
    if tells.sum() < LEAST_SQUARES:
        return 0.0
    correlation = (first * second).mean(axis=1) / np.maximum(contrast * its, 1e-6)
    return float((correlation[tells] >= CORRELATION).mean())


def squares_of(grey: Grey) -> Grey:
    """float32 (squares, pixels of a square), each about its mean."""
    number = SIZE // SQUARE
    squares = grey.reshape(number, SQUARE, number, SQUARE).swapaxes(1, 2).reshape(number**2, SQUARE**2)
    return np.asarray(squares - squares.mean(axis=1, keepdims=True))


def aligned(one: Grey, other: Grey) -> Grey | None:
    """The other, moved and stretched a little onto the first; None where that is not enough or in vain."""
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, MOST_STEPS, SMALLEST_GAIN)
    start, whole = np.eye(2, 3, dtype=np.float32), np.ones(one.shape, np.uint8)
    try:
        _, warp = cv2.findTransformECC(one, other, start, cv2.MOTION_AFFINE, until, whole, SMOOTHED_OVER)
    except cv2.error:  # nothing in common
        return None
    corners = np.array([[0, 0], [SIZE, 0], [0, SIZE], [SIZE, SIZE]], np.float32)
    if np.abs(corners @ warp[:, :2].T + warp[:, 2] - corners).max() > FARTHEST:
        return None
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(other, warp, (SIZE, SIZE), flags=how, borderMode=cv2.BORDER_REPLICATE), np.float32
    )
