"""One image, and batches, through every engine of this machine: bare, and with all that the product adds.

    python -m benchmarks.inference [--checkpoint DIR] [--batch 256] [--seconds 10]

"Bare" is the engine alone, called in a loop on arrays that are ready: OpenVINO's compiled model, PyTorch's
network. "Ours" is ImageDescriber on 8-bit renditions: crop, normalise, batches, network, copies of FC1,
projection, probabilities. Both take turns, call by call, so that a machine that slows down slows both; what
we add is the median of their ratio. PyTorch in bfloat16 on the CPU is there as a peer, bare only.
Without a checkpoint the weights are random, which are as fast, and images are prepared as the default recipe
does; but half of FC1 is not zero, where a trained network has less: projecting takes longer.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ml.checkpoint import Checkpoint, load_checkpoint
from ml.engines import Engine, OpenVinoEngine, TorchEngine
from ml.inference import ImageDescriber
from ml.network import NetworkShape, OrganNetwork, initialise_for_relu
from ml.preprocess import Preprocessing
from ml.projection import fit_projection
from ml.recipes import RECIPES

Call = Callable[[Tensor], object]
WARM_UP = 3  # calls


class Way(NamedTuple):
    name: str
    bare: Call
    batch_size: int
    engine: Engine | None  # None for a peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder of a checkpoint; else a fresh network")
    parser.add_argument("--batch", type=int, default=256, help="images given at a time")
    parser.add_argument("--seconds", type=float, default=10, help="for each of an engine's two measurements")
    options = parser.parse_args()
    renditions = np.random.default_rng(0).integers(0, 256, (options.batch, 256, 256), np.uint8)
    checkpoint = load_checkpoint(options.checkpoint) if options.checkpoint else fresh_checkpoint(renditions)
    one, many = Table(title="One image, ms"), Table(title=f"{options.batch} images at a time, images/s")
    for table, columns in ((one, "median / p95"), (many, "median")):
        for column in ("engine", f"bare: {columns}", f"ours: {columns}", "we add"):
            table.add_column(column, justify="left" if column == "engine" else "right")
    for way in ways_here(checkpoint.network):
        one.add_row(way.name, *figures_of_one(way, checkpoint, renditions[:1], options.seconds))
        many.add_row(way.name, *figures_of_many(way, checkpoint, renditions, options.seconds))
    console = Console(width=100)
    console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    console.print(one, many)


def fresh_checkpoint(renditions: NDArray[np.uint8]) -> Checkpoint:
    network = OrganNetwork(NetworkShape(organs=19, modalities=9))
    initialise_for_relu(network)
    projection = fit_projection(np.random.default_rng(0).random((200, 4096), np.float32))
    preprocessing = Preprocessing.fitted_to(renditions, RECIPES["default"])
    names = [str(n) for n in range(19)]
    return Checkpoint(network.eval(), preprocessing, projection, names, names[:9], "default")


def ways_here(network: OrganNetwork) -> Iterator[Way]:
    """One after the other, so that no more than two engines are in memory."""
    if torch.cuda.is_available():
        yield torch_way(TorchEngine(copy.deepcopy(network), "cuda"))
    openvino = OpenVinoEngine(network)
    yield Way(openvino.name, lambda x: openvino._model(x.numpy()), openvino.batch_size, openvino)
    on_cpu = TorchEngine(network, "cpu")
    yield torch_way(on_cpu)
    yield Way("peer: PyTorch, CPU bfloat16", bare_torch(on_cpu, torch.bfloat16), on_cpu.batch_size, None)


def torch_way(engine: TorchEngine) -> Way:
    kind = torch.bfloat16 if engine._in_bfloat16 else torch.float32
    return Way(engine.name, bare_torch(engine, kind), engine.batch_size, engine)


def bare_torch(engine: TorchEngine, kind: torch.dtype) -> Call:
    @torch.inference_mode()
    def call(x: Tensor) -> None:
        with torch.autocast(engine.device.type, kind, enabled=kind == torch.bfloat16):
            engine._network(x.to(engine.device, memory_format=torch.channels_last))
        if engine.device.type == "cuda":
            torch.cuda.synchronize()

    return call


def figures_of_one(
    way: Way, checkpoint: Checkpoint, renditions: NDArray[np.uint8], seconds: float
) -> list[str]:
    ready = checkpoint.preprocessing(renditions)
    bare, ours = in_turns(lambda: way.bare(ready), describing(way, checkpoint, renditions), seconds)

    def text(values: NDArray[np.float64]) -> str:
        return f"{np.median(values) * 1000:.2f} / {np.percentile(values, 95) * 1000:.2f}"

    return [text(bare), text(ours) if len(ours) else "", what_we_add(bare, ours)]


def figures_of_many(
    way: Way, checkpoint: Checkpoint, renditions: NDArray[np.uint8], seconds: float
) -> list[str]:
    ready = checkpoint.preprocessing(renditions)

    def bare_batches() -> None:
        for start in range(0, len(ready), way.batch_size):
            way.bare(ready[start : start + way.batch_size])

    bare, ours = in_turns(bare_batches, describing(way, checkpoint, renditions), seconds)
    rates = [f"{len(ready) / np.median(values):.0f}" if len(values) else "" for values in (bare, ours)]
    return [*rates, what_we_add(bare, ours)]


def describing(
    way: Way, checkpoint: Checkpoint, renditions: NDArray[np.uint8]
) -> Callable[[], object] | None:
    if way.engine is None:
        return None
    describer = ImageDescriber(checkpoint, way.engine)
    return lambda: describer.describe(renditions)


def in_turns(
    bare: Callable[[], object], ours: Callable[[], object] | None, seconds: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds of each call, (n,) and (n,) or (0,). Who begins a turn changes with every turn."""
    calls = [bare] if ours is None else [bare, ours]
    taken: list[list[float]] = [[], []]
    for _ in range(WARM_UP):
        for call in calls:
            call()
    until = time.perf_counter() + seconds
    turn = 0
    while turn < 2 or time.perf_counter() < until:
        for n in sorted(range(len(calls)), reverse=turn % 2 == 1):
            started = time.perf_counter()
            calls[n]()
            taken[n].append(time.perf_counter() - started)
        turn += 1
    return np.array(taken[0]), np.array(taken[1])


def what_we_add(bare: NDArray[np.float64], ours: NDArray[np.float64]) -> str:
    return f"{(np.median(ours / bare) - 1) * 100:+.1f} %" if len(ours) else ""


if __name__ == "__main__":
    main()
