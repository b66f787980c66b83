"""Images a second that the product learns from, beside a bare loop over the same network in the same run.

    python -m benchmarks.training [--recipe default] [--device auto] [--steps 20]

"Bare" is forward, loss, backward and update, again and again on one batch that lies ready where the network
is. "Ours" is `ml.training.train`: choosing, reading, augmenting, normalising, learning rate, clipping,
progress. The augmentation is work that the recipe asks for, so ours is shown without it too. The operations a
second are those of the bare network's multiplications and additions, forward and backward.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from ml.network import NetworkShape, device_for, organ_network
from ml.objective import Objective
from ml.preprocess import Preprocessing
from ml.recipes import RECIPES, Recipe
from ml.training import Progress, TrainingData, has_fast_bfloat16, train

WARM_UP = 3  # steps
SHAPE = NetworkShape(organs=19, modalities=9)
MULTIPLICATIONS = 0.88e9  # of one image forward; backward takes twice as many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="default")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    recipe, device = RECIPES[options.recipe], device_for(options.device)
    ways: dict[str, Callable[[], float]] = {
        "bare": lambda: bare(recipe, device, options.steps),
        "ours, without augmentation": lambda: ours(replace(recipe, augmentation=None), device, options.steps),
        "ours": lambda: ours(recipe, device, options.steps),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):  # in turns, so that a machine that slows down slows all
        for name, way in ways.items():
            rates[name].append(way())
    table = Table(
        "", "images/s", "of the bare loop", title=f"{recipe.name} recipe, batches of {recipe.batch_size}"
    )
    for name, values in rates.items():
        share = np.median(np.array(values) / np.array(rates["bare"]))
        table.add_row(name, f"{np.median(values):.1f}", f"{share:.1%}")
    console = Console(width=100)
    console.print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}", table)
    console.print(f"{6 * MULTIPLICATIONS * np.median(rates['bare']) / 1e12:.2f} TFLOP/s in the bare network")


def bare(recipe: Recipe, device: torch.device, steps: int) -> float:
    torch.manual_seed(0)
    network = organ_network(SHAPE, recipe).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = Objective(recipe, SHAPE).to(device)
    learner = nn.ModuleList([network, objective])
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(learner.parameters(), lr=1e-4)
    else:
        optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-4, fused=True)
    x = Preprocessing()(data_for(recipe).renditions[: recipe.batch_size])
    x = x.to(device, memory_format=torch.channels_last)
    organs = torch.arange(recipe.batch_size, device=device) % SHAPE.organs
    modalities = organs % SHAPE.modalities
    low = recipe.bfloat16 and has_fast_bfloat16(device)
    network.train()
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            synchronise(device)
            started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, low):
            output = network(x)
        optimiser.zero_grad(set_to_none=True)
        objective(output, organs, modalities).backward()
        optimiser.step()
    synchronise(device)
    return steps * recipe.batch_size / (time.perf_counter() - started)


def ours(recipe: Recipe, device: torch.device, steps: int) -> float:
    data, times = data_for(recipe), []

    def note(progress: Progress) -> None:
        if progress.finished_epoch is None:
            synchronise(device)
            times.append(time.perf_counter())

    nothing = TrainingData(data.renditions[:0], data.organs[:0], data.modalities[:0])
    epochs = math.ceil((WARM_UP + steps) * recipe.batch_size / len(data))
    train(data, nothing, SHAPE, recipe, organ_network, epochs=epochs, device=device.type, on_progress=note)
    return recipe.batch_size * (len(times) - WARM_UP) / (times[-1] - times[WARM_UP - 1])


def data_for(recipe: Recipe) -> TrainingData:
    """Ten batches of noise."""
    rng, number = np.random.default_rng(0), 10 * recipe.batch_size
    labels = np.arange(number, dtype=np.int64)
    renditions = rng.integers(0, 256, (number, 256, 256), np.uint8)
    return TrainingData(renditions, labels % SHAPE.organs, labels % SHAPE.modalities)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
