"""Where in an image there is something to see. Hospitals leave more or less background around it."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 64  # pixels of the picture that is looked at
DIFFERS = 0.15  # from the background, by this share of what the strongest fiftieth of the pixels does
FLATTEST = 0.05  # grey values (0..1) by which that fiftieth counts as differing at least
FILLED = 0.12  # of a row, by this share of the fullest one: a marker or the edge of a table is less
MARGIN = 1.06
SMALLEST = 0.2  # half a side


def whole_images(number: int) -> Tensor:
    """Boxes of all of each image, as `content_boxes` gives them."""
    return torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(number, 4)


def content_boxes(renditions: Tensor) -> Tensor:
    """The box that holds what differs from the background: float32 (N, 4) of uint8 (N, 256, 256).

    Its centre (x, y) and half its width and height, where -1 and 1 are the image's edges. The background is
    what the border mostly shows; where nothing differs from it, the box is the whole image.
    """
    every_other = renditions[:, ::2, ::2].unsqueeze(1).float() / 255  # enough for this, and faster
    grey = F.adaptive_avg_pool2d(every_other, SIDE).squeeze(1)
    border = torch.cat([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], 1)
    difference = (grey - border.median(1).values[:, None, None]).abs()
    strongest = difference.flatten(1).topk(SIDE * SIDE // 50).values[:, -1:, None]
    content = (difference > DIFFERS * strongest.clamp_min(FLATTEST)).float()
    middle, half = extent(torch.stack([content.mean(1), content.mean(2)], 1))
    return torch.cat([middle, half], 1)


def extent(filled: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half the length of what is filled, from the share of each of the lines (..., 64) that is."""
    lines = filled > FILLED * filled.amax(-1, keepdim=True)
    found = lines.any(-1)
    first = lines.float().argmax(-1).float() / SIDE
    last = 1 - lines.flip(-1).float().argmax(-1).float() / SIDE
    first, last = torch.where(found, first, 0.0), torch.where(found, last, 1.0)
    middle, half = (first + last) / 2, ((last - first) / 2 * MARGIN).clamp_min(SMALLEST)
    first, last = (middle - half).clamp_min(0), (middle + half).clamp_max(1)
    return first + last - 1, last - first


def cut_out(renditions: Tensor, boxes: Tensor, size: int) -> Tensor:
    """What lies in the boxes, shrunk to float32 (N, 1, size, size), grey values 0 to 1."""
    edges = zip(renditions, in_pixels(boxes, renditions.shape[-1]), strict=True)
    parts = [image[None, top:bottom, left:right].float() for image, (top, bottom, left, right) in edges]
    return torch.stack([F.adaptive_avg_pool2d(part, size) for part in parts]) / 255


def in_pixels(boxes: Tensor, side: int) -> list[list[int]]:
    """[top, bottom, left, right] of boxes (N, 4) in square images of so many pixels a side."""
    (x, y), (width, height) = boxes[:, :2].unbind(1), boxes[:, 2:].unbind(1)
    edges = torch.stack([y - height, y + height, x - width, x + width], 1)
    pixels: list[list[int]] = ((edges + 1) / 2 * side).round().int().tolist()
    return pixels
