"""How many changed copies of real images are found as nearly the same, and how many others pass for it.

    python -m benchmarks.duplicates --checkpoint DIR --data ../shared/data [--images 200]

Of pictures drawn by chance, copies are made as they come about in hospitals. Asked is whether an image is
among the nearest neighbours of its copy, and whether the two then pass for the same picture; in the product
both have to be. Beside that, how many would be found by distance alone, the one that results collapse by
(search/fitting.py). The other rows are pairs that are no copies. Neighbours are found by an exact scan of the
projections, as in a collection of up to 20,000 images.
"""

import argparse
import csv
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance
from rich.console import Console
from rich.table import Table

from benchmarks.search import start_django
from ingest.renditions import decode_rendition, network_rendition
from ml.checkpoint import load_checkpoint
from ml.engines import engine_for
from ml.inference import see
from ml.labelled_folder import read_labelled_folder
from search.same_picture import shows_the_same

Picture = Image.Image
SEED = 1  # what decides was chosen on other images


def encoded_anew(picture: Picture) -> Picture:
    file = BytesIO()
    picture.save(file, "JPEG", quality=60)
    return Image.open(file)


def resized(picture: Picture) -> Picture:
    size = (round(0.8 * picture.width), round(0.8 * picture.height))
    return picture.resize(size, Image.Resampling.LANCZOS)


def brightened(picture: Picture) -> Picture:
    return ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(1.1)).enhance(1.1)


def cropped(picture: Picture) -> Picture:
    x, y = round(0.02 * picture.width), round(0.02 * picture.height)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def annotated(picture: Picture) -> Picture:
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    draw.rectangle((2, 2, 2 + max(picture.width // 3, 30), 2 + max(picture.height // 12, 10)), fill=0)
    draw.text((3, 2), "R  12:34", fill=255)
    return picture


COPIES: dict[str, Callable[[Picture], Picture]] = {
    "JPEG encoded anew at quality 60": encoded_anew,
    "resized by 0.8": resized,
    "brightness and contrast + 10 %": brightened,
    "2 % cropped at each side": cropped,
    "a box with text burned in": annotated,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    start_django()
    from search.fitting import NEAR_DUPLICATE_PERCENTILE, OTHERS, QUERIES, distances_between
    from search.likeness import NEIGHBOURS

    checkpoint = load_checkpoint(options.checkpoint)
    engine = engine_for(checkpoint.network, "auto")
    data = read_labelled_folder(options.data)
    with (options.data / "manifest.csv").open(newline="", encoding="utf-8-sig") as file:
        paths = [options.data / row["path"] for row in csv.DictReader(file)]
    if data.skipped:
        parser.error(f"Files that cannot be read: {data.skipped}")

    def projected(renditions: NDArray[np.uint8]) -> NDArray[np.float32]:
        return checkpoint.projection(see(engine, checkpoint.preprocessing, renditions).fc1)

    collection = projected(data.renditions)
    rng = np.random.default_rng(SEED)
    sample = rng.permutation(len(data))[:OTHERS]
    between = distances_between(collection[sample[:QUERIES]], collection[sample])
    between[data.group[sample[:QUERIES], None] == data.group[sample]] = np.inf
    threshold = float(np.percentile(between.min(1), NEAR_DUPLICATE_PERCENTILE))
    asked = rng.choice(len(data), options.images, replace=False)

    table = Table("", "pairs", f"among the {NEIGHBOURS} nearest", "found", "by distance alone")
    for name, change in COPIES.items():
        copies = np.stack([rendition_of(change(Image.open(paths[one]).convert("L"))) for one in asked])
        distances = distances_between(projected(copies), collection)
        own = distances[np.arange(len(asked)), asked]
        near = (distances < own[:, None]).sum(1) < NEIGHBOURS
        same = [shows_the_same(copy, data.renditions[one]) for copy, one in zip(copies, asked, strict=True)]
        table.add_row(name, *in_words(near, near & same, own < threshold))

    distances = distances_between(collection[asked], collection)
    distances[np.arange(len(asked)), asked] = np.inf
    nearest = np.argpartition(distances, NEIGHBOURS)[:, :NEIGHBOURS]
    of_group = data.group[asked, None] == data.group
    kinds = {
        "the nearest of the same volume": of_group,
        "the nearest of another group": ~of_group,
        "another group's image of the organ, by chance": ~of_group & (data.organ[asked, None] == data.organ),
        "any other group's image, by chance": ~of_group,
    }
    for name, allowed in kinds.items():
        order = rng.random(distances.shape) if name.endswith("chance") else distances
        others = np.where(allowed & np.isfinite(distances), order, np.inf).argmin(1)
        rows = np.flatnonzero((allowed & np.isfinite(distances)).any(1))
        near = np.array([others[row] in nearest[row] for row in rows])
        same = [shows_the_same(data.renditions[asked[row]], data.renditions[others[row]]) for row in rows]
        table.add_row(name, *in_words(near, near & same, distances[rows, others[rows]] < threshold))
    Console(width=120).print(table)


def rendition_of(picture: Picture) -> NDArray[np.uint8]:
    return decode_rendition(BytesIO(network_rendition(np.asarray(picture))))


def in_words(near: NDArray[np.bool_], found: NDArray[np.bool_], by_distance: NDArray[np.bool_]) -> list[str]:
    return [str(len(near)), *[f"{each.mean():.1%}" for each in (near, found, by_distance)]]


if __name__ == "__main__":
    main()
