"""Loops over pixels and features, as machine code: image after image, on the thread that calls.

For what NumPy and PyTorch would do in dozens of passes over small images. All of it is in this one file:
Numba keeps what it compiled until this file changes, and knows nothing of others. Nothing here checks that an
index lies inside of an array: those who call check shapes (ml.framing, preprocess, augmentation, projection).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
# A plain number beside a float32 would make a float64 of it.
ZERO, HALF, ONE, WHITE = np.float32(0), np.float32(0.5), np.float32(1), np.float32(1 / 255)
EIGHT, SIXTEEN, THREE_BYTES = np.uint32(8), np.uint32(16), np.uint32(24)
BYTE, LOW_BYTES = np.uint32(0xFF), np.uint32(0xFF00FF)


def machine_code(function: F) -> F:
    """By Numba, when it is first called. Other threads run meanwhile."""
    try:
        return cast(F, njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # there is nowhere to write: each process compiles
        return cast(F, njit(nogil=True, error_model="numpy")(function))


# The frame: where in an image there is something to see.

LOOKED_AT = 64  # pixels a side of the picture: each is the sum of four, of every other row and column
WHITEST = 4 * 255
DIFFERS = np.float32(0.15)  # from the background, by this share of what the strongest fiftieth does
LEAST = np.float32(0.05 * WHITEST)  # by which that fiftieth counts as differing at least
STRONGEST = LOOKED_AT**2 // 50  # pixels
FILLED = np.float32(0.12)  # of a row, by this share of the fullest one: a marker or a table's edge is less
MARGIN = np.float32(1.06)
SMALLEST = np.float32(0.2)  # half a side


@machine_code
def find_boxes(renditions: NDArray[np.uint8], boxes: NDArray[np.float32]) -> None:
    """Centre (x, y) and half width and height, (N, 4), of what differs from what the border mostly shows."""
    for n in range(len(renditions)):
        boxes[n] = _box_of(renditions[n])


@machine_code
def find_edges(renditions: NDArray[np.uint8], edges: NDArray[np.int64]) -> None:
    """The same boxes as top, bottom, left and right in pixels, (N, 4)."""
    for n in range(len(renditions)):
        edges[n] = _edges_of(renditions[n])


@machine_code
def _edges_of(image: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    x, y, width, height = _box_of(image)
    half = np.float32(len(image)) / np.float32(2)
    return (
        int(np.rint((y - height + ONE) * half)),
        int(np.rint((y + height + ONE) * half)),
        int(np.rint((x - width + ONE) * half)),
        int(np.rint((x + width + ONE) * half)),
    )


@machine_code
def _box_of(image: NDArray[np.uint8]) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    grey = np.empty((LOOKED_AT, LOOKED_AT), np.int32)
    rows, columns = np.empty(LOOKED_AT, np.int32), np.empty(LOOKED_AT, np.int32)
    _look_at(image, grey)
    _count_content(grey, rows, columns)
    (x, width), (y, height) = _extent(columns), _extent(rows)
    return x, y, width, height


@machine_code
def _look_at(image: NDArray[np.uint8], grey: NDArray[np.int32]) -> None:
    for i in range(LOOKED_AT):
        one, two = image[4 * i], image[4 * i + 2]
        for j in range(LOOKED_AT):
            upper = np.int32(one[4 * j]) + np.int32(one[4 * j + 2])
            grey[i, j] = upper + np.int32(two[4 * j]) + np.int32(two[4 * j + 2])


@machine_code
def _count_content(grey: NDArray[np.int32], rows: NDArray[np.int32], columns: NDArray[np.int32]) -> None:
    """How many pixels of each row, and of each column, differ from the background."""
    counts = np.zeros(WHITEST + 1, np.int32)
    for n in range(LOOKED_AT):
        for level in (grey[0, n], grey[-1, n], grey[n, 0], grey[n, -1]):
            counts[level] += 1
    background = _nth_level(counts, 2 * LOOKED_AT)  # the median of the border
    counts[:] = 0
    for i in range(LOOKED_AT):
        for j in range(LOOKED_AT):
            counts[abs(grey[i, j] - background)] += 1
    strongest = np.float32(_nth_level(counts, LOOKED_AT**2 - STRONGEST + 1))
    least = DIFFERS * max(strongest, LEAST)
    rows[:], columns[:] = 0, 0
    for i in range(LOOKED_AT):
        for j in range(LOOKED_AT):
            differs = np.int32(np.float32(abs(grey[i, j] - background)) > least)
            rows[i] += differs
            columns[j] += differs


@machine_code
def _nth_level(counts: NDArray[np.int32], n: int) -> int:
    """The n-th smallest, from 1, of values of which counts[v] are v."""
    seen = 0
    for level in range(len(counts)):
        seen += counts[level]
        if seen >= n:
            return level
    return len(counts) - 1


@machine_code
def _extent(filled: NDArray[np.int32]) -> tuple[np.float32, np.float32]:
    """Centre and half the length, where -1 and 1 are the edges, of the lines in which enough is filled."""
    least = FILLED * np.float32(filled.max())
    first, last = np.float32(0), np.float32(1)
    for n in range(LOOKED_AT):
        if filled[n] > least:
            first = np.float32(n) / np.float32(LOOKED_AT)
            break
    for n in range(LOOKED_AT):
        if filled[LOOKED_AT - 1 - n] > least:
            last = np.float32(LOOKED_AT - n) / np.float32(LOOKED_AT)
            break
    middle, half = (first + last) / np.float32(2), max((last - first) / np.float32(2) * MARGIN, SMALLEST)
    first, last = max(middle - half, np.float32(0)), min(middle + half, np.float32(1))
    return first + last - np.float32(1), last - first


# The finish: from a part of an image to what the network takes.

FLATTEST = np.float32(0.03)  # standard deviation of grey values below which an image is not stretched further
LEVELS = 256  # of grey values that are told apart when a histogram is equalised


class Finish(NamedTuple):
    """Preprocessing, as compiled code takes it."""

    size: int  # pixels a side that are kept
    before: NDArray[np.uint32]  # (crop,): which of these comes before each of the network's,
    after: NDArray[np.uint32]  # (crop,): which one after it,
    share: NDArray[np.float32]  # (crop,): and the share of the latter
    equalisation: np.float32
    per_image: bool
    mean: np.float32
    std: np.float32


@machine_code
def prepare(
    renditions: NDArray[np.uint8],
    framed_as: NDArray[np.uint8],
    framed: bool,
    finish: Finish,
    to: NDArray[np.float32],
) -> None:
    """The frame of each image, or its centre, finished: (N, crop, crop).

    framed_as: whose frame is taken for each, (N, 256, 256), or for all, (1, 256, 256).
    """
    grey = np.empty((finish.size, finish.size), np.float32)
    crop, side = to.shape[-1], renditions.shape[-1]
    start, stop = (side - crop) // 2, (side - crop) // 2 + crop
    for n in range(len(renditions)):
        edges = (start, stop, start, stop)
        if framed:
            edges = _edges_of(framed_as[min(n, len(framed_as) - 1)])
        _shrink(renditions[n], edges, np.float32(255), grey)
        _complete(grey, finish, to[n])


@machine_code
def _shrink(
    image: NDArray[Any], edges: tuple[int, int, int, int], white: np.float32, grey: NDArray[np.float32]
) -> None:
    """Means over (size, size) cells, as torch's adaptive_avg_pool2d. `white` is what becomes 1."""
    size, (top, bottom, left, right) = len(grey), edges
    rows, columns = bottom - top, right - left
    starts, widths = np.empty(size, np.uint32), np.empty(size, np.float32)
    for j in range(size):
        starts[j] = j * columns // size
        widths[j] = (j * columns + columns + size - 1) // size - j * columns // size
    widest = (columns + size - 1) // size + 1
    total = np.zeros(columns + widest, np.float32)  # of whole numbers: exact
    sums, found = np.empty(size, np.float32), np.empty(size, np.float32)
    for i in range(size):
        first, last = top + i * rows // size, top + (i * rows + rows + size - 1) // size
        total[:] = 0
        for y in range(first, last):
            line = image[y, left:right]
            for x in range(columns):
                total[x] += line[x]
        sums[:] = 0
        for k in range(widest):
            for j in range(size):
                found[j] = total[starts[j] + np.uint32(k)]
            for j in range(size):
                sums[j] += found[j] if widths[j] > np.float32(k) else ZERO
        for j in range(size):
            grey[i, j] = sums[j] / np.float32(last - first) / widths[j] / white


@machine_code
def _complete(grey: NDArray[np.float32], finish: Finish, to: NDArray[np.float32]) -> None:
    """Equalise, standardise and enlarge (size, size) grey values, which change, to (crop, crop)."""
    if finish.equalisation:
        _equalise(grey, finish.equalisation)
    mean, std = _mean_and_std(grey) if finish.per_image else (finish.mean, finish.std)
    crop = len(to)
    before, after, share = finish.before, finish.after, finish.share
    wide = np.empty((2, crop), np.float32)  # the last two of the lines, enlarged
    low, high = np.empty(crop, np.float32), np.empty(crop, np.float32)
    widened = 0
    for y in range(crop):
        while widened <= after[y]:
            line, to_right = grey[widened], wide[widened % 2]
            for x in range(crop):
                low[x], high[x] = line[before[x]], line[after[x]]
            for x in range(crop):
                to_right[x] = (low[x] + share[x] * (high[x] - low[x]) - mean) / std
            widened += 1
        upper, lower = wide[before[y] % 2], wide[after[y] % 2]
        for x in range(crop):
            to[y, x] = upper[x] + share[y] * (lower[x] - upper[x])


@machine_code
def _equalise(grey: NDArray[np.float32], share: np.float32) -> None:
    """Mix in, for each pixel, the share of pixels that are darker; of those of its own level half count."""
    size = len(grey)
    level = np.empty((size, size), np.uint8)
    counts = np.zeros(LEVELS, np.int32)
    for i in range(size):
        for j in range(size):
            level[i, j] = np.rint(grey[i, j] * np.float32(LEVELS - 1))
        for j in range(size):
            counts[level[i, j]] += 1
    darker, seen = np.empty(LEVELS, np.float32), 0
    for n in range(LEVELS):
        darker[n] = (seen + counts[n] / 2) / (size * size)
        seen += counts[n]
    for i in range(size):
        for j in range(size):
            grey[i, j] += share * (darker[level[i, j]] - grey[i, j])


@machine_code
def _mean_and_std(grey: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    size = len(grey)
    totals = np.zeros(size, np.float32)  # a column each, which adds up side by side
    for i in range(size):
        for j in range(size):
            totals[j] += grey[i, j]
    mean = totals.sum() / np.float32(grey.size)
    totals[:] = 0
    for i in range(size):
        for j in range(size):
            totals[j] += (grey[i, j] - mean) * (grey[i, j] - mean)
    return mean, max(np.sqrt(totals.sum() / np.float32(grey.size)), FLATTEST)


# Random views, to learn from.


class View(NamedTuple):
    """How N images are changed. See ml.augmentation."""

    placed: NDArray[np.float32]  # (N, 2, 3): from places in the view to places in the image, -1 to 1 in both
    black: NDArray[np.bool_]  # (N,): black beyond the image's edge; else as the edge is
    curve: NDArray[np.float32]  # (N, levels): what becomes of grey values from 0 to 1
    tilt: NDArray[np.float32]  # (N, 3): shading to the right, downwards, outwards
    negative: NDArray[np.bool_]  # (N,)
    noise: NDArray[np.float32]  # (N,): its standard deviation
    seed: NDArray[np.uint64]  # (N,): of the noise


@machine_code
def look(renditions: NDArray[np.uint8], view: View, finish: Finish, to: NDArray[np.float32]) -> None:
    """A view of each image, finished: (N, crop, crop)."""
    crop = to.shape[-1]
    seen, grey = np.empty((crop, crop), np.float32), np.empty((finish.size, finish.size), np.float32)
    for n in range(len(renditions)):
        _place(renditions[n], view.placed[n], view.black[n], seen)
        _regrade(seen, view.curve[n], view.tilt[n], view.negative[n])
        if view.noise[n]:
            _add_noise(seen, view.noise[n], view.seed[n])
        _shrink(seen, (0, crop, 0, crop), ONE, grey)
        _complete(grey, finish, to[n])


@machine_code
def _place(
    image: NDArray[np.uint8], placed: NDArray[np.float32], black: bool, seen: NDArray[np.float32]
) -> None:
    """Bilinear, as torch's grid_sample without align_corners; grey values from 0 to 1.

    Line by line, and each line in three loops: those that look nothing up calculate many pixels at a time.
    """
    crop, half, last = len(seen), np.float32(len(image) / 2), np.float32(len(image) - 1)
    neighbours, side = _neighbours(image).ravel(), np.int32(len(image))
    # In pixels: from the middle of the view's first to the image, and on by one to the right or downwards.
    first = (placed[:, 2] - (placed[:, 0] + placed[:, 1]) * np.float32((crop - 1) / crop) + ONE) * half - HALF
    right, down = placed[:, 0] * np.float32(2 / crop) * half, placed[:, 1] * np.float32(2 / crop) * half
    step = np.arange(crop).astype(np.float32)
    at, four = np.empty(crop, np.int32), np.empty(crop, np.uint32)
    across, along, weight = np.empty(crop, np.float32), np.empty(crop, np.float32), np.empty(crop, np.float32)
    for i in range(crop):
        start_x, start_y = first[0] + down[0] * step[i], first[1] + down[1] * step[i]
        for j in range(crop):
            x, y = start_x + right[0] * step[j], start_y + right[1] * step[j]
            # Beyond the edge black fades in over one pixel.
            weight[j] = _inside(x, last) * _inside(y, last) if black else ONE
            x, y = _between(x, ZERO, last), _between(y, ZERO, last)
            column, row = np.int32(x), np.int32(y)
            at[j] = row * side + column
            across[j], along[j] = x - np.float32(column), y - np.float32(row)
        for j in range(crop):
            four[j] = neighbours[np.uint32(at[j])]
        for j in range(crop):
            a, b = np.float32(np.int32(four[j] & BYTE)), np.float32(np.int32(four[j] >> EIGHT & BYTE))
            c, d = (
                np.float32(np.int32(four[j] >> SIXTEEN & BYTE)),
                np.float32(np.int32(four[j] >> THREE_BYTES)),
            )
            upper, lower = a + (b - a) * across[j], c + (d - c) * across[j]
            seen[i, j] = (upper + (lower - upper) * along[j]) * weight[j] * WHITE


@machine_code
def _neighbours(image: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Each pixel, that to its right, that below it and the one beside that, as the bytes of one number.

    Beyond the last column and row these are repeated.
    """
    side = len(image)
    four = np.empty((side, side), np.uint32)
    for i in range(side):
        upper, lower, line = image[i], image[min(i + 1, side - 1)], four[i]
        for j in range(side):
            line[j] = np.uint32(upper[j]) | np.uint32(lower[j]) << SIXTEEN
        for j in range(side - 1):
            line[j] |= (line[j + 1] & LOW_BYTES) << EIGHT
        line[side - 1] |= line[side - 1] << EIGHT
    return four


@machine_code
def _inside(place: np.float32, last: np.float32) -> np.float32:
    """1 between the first and the last pixel, 0 from one pixel beyond them."""
    return _between(min(place, last - place) + ONE, ZERO, ONE)


@machine_code
def _between(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    value = value if value > low else low
    return value if value < high else high


@machine_code
def _regrade(
    seen: NDArray[np.float32], curve: NDArray[np.float32], tilt: NDArray[np.float32], negative: bool
) -> None:
    crop, last = len(seen), np.float32(len(curve) - 1)
    place, least = np.linspace(-1, 1, crop).astype(np.float32), tilt[2] * np.float32(0.6)
    at, beyond = np.empty(crop, np.int32), np.empty(crop, np.float32)
    low, high = np.empty(crop, np.float32), np.empty(crop, np.float32)
    for i in range(crop):
        downwards = ONE + tilt[1] * place[i] + tilt[2] * place[i] * place[i] - least
        line = seen[i]
        for j in range(crop):
            value = _between(line[j] * last, ZERO, last - ONE)
            at[j] = np.int32(value)
            beyond[j] = line[j] * last - np.float32(at[j])
        for j in range(crop):
            low[j], high[j] = curve[np.uint32(at[j])], curve[np.uint32(at[j] + 1)]
        for j in range(crop):
            grey = low[j] + (high[j] - low[j]) * beyond[j]
            grey *= downwards + (tilt[0] + tilt[2] * place[j]) * place[j]
            grey = _between(grey, ZERO, ONE)
            line[j] = ONE - grey if negative else grey


@machine_code
def _add_noise(seen: NDArray[np.float32], noise: np.float32, seed: np.uint64) -> None:
    """Sums of four uniform numbers, all from one of SplitMix64 (Steele, Lea, Flood 2014): nearly normal."""
    crop, part = len(seen), np.uint64(0xFFFF)
    scale = noise / np.float32(65536 / np.sqrt(3))
    for i in range(crop):
        for j in range(crop):
            z = seed + np.uint64(i * crop + j) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            total = (
                (z & part) + (z >> np.uint64(16) & part) + (z >> np.uint64(32) & part) + (z >> np.uint64(48))
            )
            value = seen[i, j] + (np.float32(np.int64(total)) - np.float32(2 * 65535)) * scale
            seen[i, j] = _between(value, ZERO, ONE)


# What is done after the network.

ABREAST = 4  # rows of components that are read side by side: memory brings them as soon as one


@machine_code
def project(
    fc1: NDArray[np.float32],
    components: NDArray[np.int16],
    scale: NDArray[np.float32],
    origin: NDArray[np.float32],
    to: NDArray[np.float32],
) -> None:
    """From origin (512,), the components (4096, 512) times scale (4096,) of features that are not zero."""
    features = len(components)
    used, weight = np.empty(features + ABREAST, np.int64), np.empty(features + ABREAST, np.float32)
    for n in range(len(fc1)):
        number = 0
        for j in range(features):
            used[number], weight[number] = j, fc1[n, j] * scale[j]
            number += fc1[n, j] != 0
        used[number : number + ABREAST], weight[number : number + ABREAST] = 0, 0
        line = to[n]
        line[:] = origin
        for i in range(0, number, ABREAST):
            a, b = components[used[i]], components[used[i + 1]]
            c, d = components[used[i + 2]], components[used[i + 3]]
            of_a, of_b, of_c, of_d = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
            for k in range(len(line)):
                one_and_two = of_a * np.float32(a[k]) + of_b * np.float32(b[k])
                line[k] += one_and_two + of_c * np.float32(c[k]) + of_d * np.float32(d[k])


@machine_code
def remain(fc1: NDArray[np.float32], mean: NDArray[np.float32], to: NDArray[np.float32]) -> None:
    """The length of what all but the last component leave of centred FC1, in place of the last."""
    last = to.shape[1] - 1
    for n in range(len(fc1)):
        left = 0.0
        for j in range(len(mean)):
            left += (fc1[n, j] - mean[j]) ** 2
        for k in range(last):
            left -= to[n, k] ** 2
        to[n, last] = np.sqrt(max(left, 0.0))


@machine_code
def soften(
    logits: NDArray[np.float32],
    temperature: np.float32,
    probabilities: NDArray[np.float32],
    energies: NDArray[np.float32],
) -> None:
    """Softmax with a temperature, (N, classes), and minus the log of the sum of exponentials, (N,)."""
    for n in range(len(logits)):
        highest = logits[n].max()
        total, of_all = ZERO, ZERO
        for k in range(logits.shape[1]):
            probabilities[n, k] = np.exp((logits[n, k] - highest) / temperature)
            total += probabilities[n, k]
            of_all += np.exp(logits[n, k] - highest)
        for k in range(logits.shape[1]):
            probabilities[n, k] /= total
        energies[n] = -highest - np.log(of_all)
