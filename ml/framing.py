"""Where in an image there is something to see. Hospitals leave more or less background around it."""

import numpy as np
from numpy.typing import NDArray

from ingest.renditions import RENDITION_SIZE
from ml import compiled


def whole_images(number: int) -> NDArray[np.float32]:
    """Boxes of all of each image, as `content_boxes` gives them."""
    return np.tile(np.array([0, 0, 1, 1], np.float32), (number, 1))


def content_boxes(renditions: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The box that holds what differs from the background: float32 (N, 4) of uint8 (N, 256, 256).

    Its centre (x, y) and half its width and height, where -1 and 1 are the image's edges. The background is
    what the border mostly shows; where nothing differs from it, the box is the whole image.
    """
    boxes = np.empty((len(renditions), 4), np.float32)
    compiled.find_boxes(checked(renditions), boxes)
    return boxes


def content_edges(renditions: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The same as top, bottom, left and right, in whole pixels: (N, 4)."""
    edges = np.empty((len(renditions), 4), np.int64)
    compiled.find_edges(checked(renditions), edges)
    return edges


def checked(renditions: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In one piece. Raises ValueError where they are not uint8 (N, 256, 256)."""
    side = RENDITION_SIZE
    if renditions.dtype != np.uint8 or renditions.shape[1:] != (side, side):
        given = f"{renditions.dtype} {renditions.shape}"
        raise ValueError(f"Renditions are uint8 (N, {side}, {side}), not {given}.")
    return np.ascontiguousarray(renditions)
