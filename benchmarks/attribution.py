"""Whether the maps of "Why similar?" show what the similarity rests on: a check by deletion.

    python -m benchmarks.attribution --checkpoint DIR --data ../shared/data [--pairs 100]

Of test images and their nearest training images, the places that a map calls most important are blanked in
the test image, and it is told how much of the cosine of both FC1 is lost: the more, the better the map.
Compared are occlusion with squares of several sizes, the gradient of the similarity times the activations of
the last convolution (as in Grad-CAM), and places drawn by chance. In brackets 95 % intervals over pairs.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ml.attribution import PATCH, Describe, cosines, what_matters
from ml.calibration import nearest_distances
from ml.checkpoint import load_checkpoint
from ml.engines import engine_for
from ml.framing import content_edges
from ml.inference import see
from ml.labelled_folder import read_labelled_folder
from ml.preprocess import Preprocessing
from ml.protocol import mean_with_interval

SHARES = (0.05, 0.1, 0.2, 0.3)  # of the picture that is blanked
PATCHES = (32, 48, 64)
BLOCK = 16  # pixels a side of places drawn by chance

Rendition = NDArray[np.uint8]
Vector = NDArray[np.float32]
Method = Callable[[Rendition, Vector], Vector]  # a picture, the other's FC1 -> (256, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100)
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    engine = engine_for(checkpoint.network, "auto")
    rng = np.random.default_rng(0)

    def describe(renditions: NDArray[np.uint8], framed_as: Rendition | None = None) -> Vector:
        return see(engine, partial(checkpoint.preprocessing, framed_as=framed_as), renditions).fc1

    def gradient(rendition: Rendition, other: Vector) -> Vector:
        kept: list[torch.Tensor] = []
        hook = checkpoint.network.conv5.register_forward_hook(lambda _, __, output: kept.append(output))
        with torch.enable_grad():
            fc1 = checkpoint.network(checkpoint.preprocessing(rendition[np.newaxis])).fc1
            similarity = torch.nn.functional.cosine_similarity(fc1, torch.from_numpy(other)[None]).sum()
            (slopes,) = torch.autograd.grad(similarity, kept[0])
        hook.remove()
        grid = (slopes * kept[0].relu()).sum(1, keepdim=True).clamp_min(0)
        top, bottom, left, right = frame_of(checkpoint.preprocessing, rendition)
        inner = torch.nn.functional.interpolate(grid, (bottom - top, right - left), mode="bilinear")
        whole = np.zeros(rendition.shape, np.float32)
        whole[top:bottom, left:right] = inner[0, 0].detach().numpy()
        return whole

    def chance(rendition: Rendition, other: Vector) -> Vector:
        size = len(rendition) // BLOCK
        return np.kron(rng.random((size, size)), np.ones((BLOCK, BLOCK))).astype(np.float32)

    def occlusion(patch: int) -> Method:
        return lambda rendition, other: what_matters(describe, rendition, other, patch)

    methods: dict[str, Method] = {
        f"occlusion, {patch} pixels{' (the default)' if patch == PATCH else ''}": occlusion(patch)
        for patch in PATCHES
    }
    methods |= {
        "gradient times activation": gradient,
        "chance": chance,
    }
    data = read_labelled_folder(options.data)
    learnt = data.renditions[data.split == "train"]
    chosen = rng.permutation(np.flatnonzero(data.split == "test"))[: options.pairs]
    asked, learnt_fc1 = data.renditions[chosen], describe(learnt)
    fc1 = describe(asked)
    nearest = [int(((learnt_fc1 - one) ** 2).sum(1).argmin()) for one in fc1]
    print(f"{len(asked)} pairs, median distance {np.median(nearest_distances(fc1, learnt_fc1)):.3f}")
    table = Table("map", *[f"lost at {share:.0%}" for share in SHARES])
    for name, method in methods.items():
        lost = np.array(
            [
                losses(describe, picture, learnt_fc1[other], method)
                for picture, other in track(list(zip(asked, nearest, strict=True)), name)
            ]
        )
        group = data.group[chosen]
        cells = [mean_with_interval(column.astype(np.float64), group, 1000, 0) for column in lost.T]
        table.add_row(name, *[f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in cells])
    Console(width=120).print(table)


def frame_of(preprocessing: Preprocessing, rendition: Rendition) -> list[int]:
    """[top, bottom, left, right] of what the network is shown, in pixels."""
    if preprocessing.framed:
        edges: list[int] = content_edges(rendition[np.newaxis])[0].tolist()
        return edges
    margin = (len(rendition) - preprocessing.crop) // 2
    return [margin, len(rendition) - margin] * 2


def losses(describe: Describe, rendition: Rendition, other: Vector, method: Method) -> list[float]:
    """Share of the similarity that is lost, for each share of the picture that is blanked."""
    order = np.argsort(-method(rendition, other), axis=None, kind="stable")
    pictures = np.repeat(rendition[np.newaxis], len(SHARES) + 1, axis=0)
    for picture, share in zip(pictures[1:], SHARES, strict=True):
        picture.ravel()[order[: round(share * order.size)]] = round(float(rendition.mean()))
    found = cosines(describe(pictures, rendition), other)
    return [float((found[0] - left) / found[0]) for left in found[1:]]


if __name__ == "__main__":
    main()
