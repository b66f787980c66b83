"""What each part of the default recipe is worth, also on images of sources that it has not learnt from.

    python -m benchmarks.ablation --data ../shared/data --out var/ablation [--other DIR ...] [--only STEP ...]

Each step adds one thing to the step before it, and trains the network from scratch on the train split without
the sources of `--fold` and without the groups kept for validation. Queries, of which no step has learnt:

- known: the validation groups, of sources that were learnt from. The test split is not touched by choices.
- held out: every image of the held-out sources (leave one source out, see `folds`).
- each `--other` folder with its manifest.csv: images of yet other hospitals.

All search the images that were learnt from. Differences to the step before are over the same queries, with
95 % intervals by paired bootstrap over their groups. A step that is done is in --out and is not run again;
one that was stopped goes on from its last saved epoch.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from ml.labelled_folder import LabelledFolder, read_labelled_folder
from ml.network import NetworkShape, OrganNetwork, device_for, organ_network
from ml.preprocess import Preprocessing
from ml.protocol import Described, paired_difference, per_query
from ml.recipes import RECIPES, Augmentation, Recipe
from ml.training import Progress, TrainingData, has_fast_bfloat16, train

NARROW: dict[str, Any] = {
    "channels": (32, 96, 192, 128, 128),
    "fc1": 2048,
    "fc2": 1024,
    "fc3": 1024,
}  # 4 times as fast
MEASURES = {"accuracy": "accuracy", "map": "mAP", "precision_at_1": "P@1"}
GEOMETRY = Augmentation(
    any_curve=0,
    gamma=0,
    curve=0,
    contrast=0,
    brightness=0,
    shading=0,
    negative=0,
    noise=0,
)
RISING = replace(Augmentation(), any_curve=0.0)
# What a step adds. The first is the network with a modern start, optimiser and schedule, and nothing else.
STEPS: dict[str, dict[str, Any]] = {
    "plain": {
        "batch_norm": False,
        "learning_rate": 3e-4,
        "augmentation": None,
        "framed": False,
        "per_image": False,
        "resolution": None,
        "equalisation": 0.0,
        "modality_weight": 0.0,
        "fc1_weight": 0.0,
        "fc1_margin": 0.0,
        "unit_fc1": False,
        "dropout": 0.5,
    },
    "batch norms and a higher rate": {"batch_norm": True, "learning_rate": 1e-3},
    "geometry": {"augmentation": GEOMETRY},
    "grey values": {"augmentation": RISING},
    "any curve of grey values": {"augmentation": Augmentation()},
    "the part that shows something": {"framed": True},
    "each image's own scale": {"per_image": True},
    "96 pixels a side": {"resolution": 96},
    "half equalised": {"equalisation": 0.5},
    "modality head": {"modality_weight": 0.5},
    "less dropout": {"dropout": 0.3},
    "FC1 compared by direction": {"unit_fc1": True},
    "directions of FC1 learnt": {"fc1_weight": 1.0},
    "with a margin": {"fc1_weight": 2.0, "fc1_margin": 0.35},
}

PerQuery = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Task:
    """What one fold learns from and asks with."""

    learning: LabelledFolder
    validation: LabelledFolder
    queries: dict[str, LabelledFolder]


def main() -> None:
    options = parse_options()
    console = Console(width=130)
    task = task_of(options, console)
    recipe, before = RECIPES["default"], None
    table = Table("step", "queries", *MEASURES.values())
    for name, change in STEPS.items():
        recipe = replace(recipe, **change)
        if options.only and name not in options.only:
            continue
        seen = measured(name, recipe, task, options)
        for number, asked in enumerate(seen):
            cells = cells_of(seen[asked], before[asked] if before else None, task.queries[asked].group)
            table.add_row("" if number else name, asked, *cells, end_section=number == len(seen) - 1)
        before = seen
    console.print(table)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--other", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--narrow", action="store_true", help="half the channels: faster, for choosing")
    parser.add_argument("--only", nargs="*", choices=list(STEPS))
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def task_of(options: argparse.Namespace, console: Console) -> Task:
    everything = read_labelled_folder(options.data)
    held_out = folds(everything)[options.fold]
    train_split = (everything.split == "train") & ~held_out
    validation = train_split & np.isin(everything.group, validation_groups(everything, train_split))
    queries = {"known": everything.part(validation), "held out": everything.part(held_out)}
    for folder in options.other:
        other = read_labelled_folder(folder, everything.organ_names, everything.modality_codes)
        queries[folder.name] = other.part(other.organ < len(everything.organ_names))
    learning = everything.part(train_split & ~validation)
    console.print(
        f"Learning from {len(learning)} images; held out: {', '.join(pairs_in(everything, held_out))}"
    )
    return Task(learning, queries["known"], queries)


def folds(images: LabelledFolder) -> list[NDArray[np.bool_]]:
    """Leave one source out: fold k is without the (k + 1)-th largest source of each kind of image.

    A kind is an organ and a modality; one from a single source is always learnt from, and so is the last
    source of a kind in folds beyond their number.
    """
    kinds = np.stack([images.organ, images.modality], 1)
    found: list[NDArray[np.bool_]] = []
    for kind in np.unique(kinds, axis=0):
        members = (kinds == kind).all(1)
        sources, counts = np.unique(images.source[members], return_counts=True)
        if len(sources) < 2:
            continue
        for k, source in enumerate(sources[np.argsort(-counts, kind="stable")]):
            if k == len(found):
                found.append(np.zeros(len(images), bool))
            found[k] |= members & (images.source == source)
    return found


def pairs_in(images: LabelledFolder, chosen: NDArray[np.bool_]) -> list[str]:
    pairs = {
        (images.organ_names[o], str(s))
        for o, s in zip(images.organ[chosen], images.source[chosen], strict=True)
    }
    return [f"{organ} from {source}" for organ, source in sorted(pairs)]


def validation_groups(images: LabelledFolder, among: NDArray[np.bool_], share: float = 0.12) -> list[str]:
    """Whole groups, about this share of each organ's, by a fixed draw; an organ of one group gives none."""
    rng, chosen = np.random.default_rng(0), []
    for organ in np.unique(images.organ[among]):
        groups = np.unique(images.group[among & (images.organ == organ)])
        if len(groups) > 1:
            chosen += rng.permutation(groups)[: max(1, round(share * len(groups)))].tolist()
    return chosen


def measured(name: str, recipe: Recipe, task: Task, options: argparse.Namespace) -> dict[str, PerQuery]:
    """Per set of queries and measure, a value for each query; from --out where it is there."""
    width = "narrow" if options.narrow else "full"
    folder = options.out / f"fold{options.fold}-{width}-{options.epochs}" / name.replace(" ", "_")
    if not (folder / "measures.npz").exists():
        shape = NetworkShape(
            organs=len(task.learning.organ_names),
            modalities=len(task.learning.modality_codes) if recipe.modality_weight else 0,
            **(NARROW if options.narrow else {}),
        )
        with Bar() as bar:
            network, preprocessing, _ = train(
                training_data(task.learning),
                training_data(task.validation),
                shape,
                recipe,
                organ_network,
                epochs=options.epochs,
                device=options.device,
                resume_dir=folder,
                on_progress=shown_on(bar, name),
            )
        collection = described(network, preprocessing, task.learning, options.device)
        arrays: dict[str, Any] = {}
        for asked, images in task.queries.items():
            queries = described(network, preprocessing, images, options.device)
            values = per_query(queries, collection)["all"]["organ"]
            arrays |= {f"{asked}/{m}": values[m] for m in ("map", "precision_at_1")}
            arrays[f"{asked}/accuracy"] = (queries.seen_organ == queries.organ).astype(float)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(
            json.dumps({**recipe.as_json(), "epochs": options.epochs}, indent=1)
        )
        np.savez(folder / "measures.npz", **arrays)
        for state in folder.glob("state*"):
            state.unlink()
    stored = np.load(folder / "measures.npz")
    return {asked: {m: stored[f"{asked}/{m}"] for m in MEASURES} for asked in task.queries}


def shown_on(bar: Bar, name: str) -> Callable[[Progress], None]:
    shown = bar.add_task(name)

    def show(progress: Progress) -> None:
        total = progress.epochs * progress.steps
        bar.update(shown, total=total, completed=(progress.epoch - 1) * progress.steps + progress.step)

    return show


def training_data(images: LabelledFolder) -> TrainingData:
    return TrainingData(images.renditions, images.organ, images.modality)


@torch.inference_mode()
def described(
    network: OrganNetwork, preprocessing: Preprocessing, images: LabelledFolder, device: str
) -> Described:
    """By the network itself, in the number format of its training; what is compared is recipes."""
    target = device_for(device)
    network = network.eval().to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    fc1, organs = [], []
    for start in range(0, len(images), 64):
        x = preprocessing(images.renditions[start : start + 64]).to(target)
        with torch.autocast(target.type, torch.bfloat16, enabled=has_fast_bfloat16(target)):
            seen = network(x)
        fc1.append(seen.fc1.float().cpu().numpy())
        organs.append(seen.organ_logits.argmax(1).cpu().numpy())
    return Described(
        features=np.concatenate(fc1),
        organ=images.organ,
        modality=images.modality,
        group=images.group,
        seen_organ=np.concatenate(organs),
        seen_modality=np.full(len(images), -1),
    )


def cells_of(seen: PerQuery, before: PerQuery | None, groups: NDArray[np.str_]) -> list[str]:
    """Each measure with its gain over the step before and the interval of that."""
    texts = []
    for measure, values in seen.items():
        text = f"{np.nanmean(values):.3f}"
        if before:
            gain, low, high = paired_difference(values, before[measure], groups)
            text += f" {gain:+.3f} ({low:+.3f} to {high:+.3f})"
        texts.append(text)
    return texts


if __name__ == "__main__":
    main()
