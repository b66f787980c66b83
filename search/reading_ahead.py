"""Reading the renditions of the next batch while this one is being finished."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ingest.models import Image
from ingest.renditions import read_rendition

READERS = 2  # threads
MOST_AHEAD = 128  # images, 8 MB: two versions in service may be at different places


class RenditionReader:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READERS, "renditions")
        self._coming: dict[int, Future[NDArray[np.uint8]]] = {}  # by image

    def read(self, images: Sequence[Image]) -> NDArray[np.uint8]:
        """uint8 (N, 256, 256): what was read ahead, and the rest."""
        return np.stack([rendition.result() for rendition in [self._take(image) for image in images]])

    def read_ahead(self, images: Sequence[Image]) -> None:
        """Begin with these and return at once. What nobody came for makes room in the end."""
        for image in images:
            self._coming[image.pk] = self._take(image)
        for forgotten in list(self._coming)[:-MOST_AHEAD]:
            if reading := self._coming.pop(forgotten, None):  # unless another thread came for it
                reading.cancel()

    def _take(self, image: Image) -> Future[NDArray[np.uint8]]:
        begun = self._coming.pop(image.pk, None)
        return begun or self._threads.submit(read_rendition, image.rendition)
