"""One straight training loop. Knows arrays and files, nothing of Django."""

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.augmentation import augment
from ml.network import NetworkOutput, NetworkShape, device_for, fold_batch_norms
from ml.objective import Objective
from ml.preprocess import INPUT_SIZE, Preprocessing
from ml.recipes import Recipe
from ml.schedule import EpochResult, Schedule, load_state, save_state
from ml.team import Team, team_of

SAVE_SECONDS = 60  # between two saves of the state to resume from
AHEAD = 2  # batches that are prepared before they are asked for
PIECE = 8  # images that are prepared by one thread after the other
N = TypeVar("N", bound=nn.Module)
LONGEST_GRADIENT = 5.0
MEASURED_STEPS = 4  # after which a time limit is turned into a number of steps


@dataclass(frozen=True)
class TrainingData:
    """renditions: uint8 (N, 256, 256); labels: int64 (N,), -1 where unknown."""

    renditions: NDArray[np.uint8]
    organs: NDArray[np.int64]
    modalities: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.organs)


@dataclass(frozen=True)
class Progress:
    epoch: int  # from 1
    epochs: int
    step: int  # within the epoch
    steps: int
    images_per_second: float
    seconds_left: float
    loss: float
    finished_epoch: EpochResult | None = None


class Stopped(Exception):
    """The caller asked to stop; the state to resume from is saved."""


def train(
    data: TrainingData,
    validation: TrainingData,
    shape: NetworkShape,
    recipe: Recipe,
    build: Callable[[NetworkShape, Recipe], N],
    *,
    epochs: int | None = None,
    max_seconds: float | None = None,
    device: str = "auto",
    processes: int | None = None,
    seed: int = 0,
    resume_dir: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[N, Preprocessing, list[EpochResult]]:
    """Train from scratch, or from the state found in `resume_dir`.

    `build` makes the network, which gives out a `NetworkOutput`: `ml.network.organ_network`, or a baseline's.
    `max_seconds` shortens the schedule to what fits, measured over the first steps; it never lengthens it.
    `processes` share every batch; by default one for each GPU.
    Raises Stopped when `should_stop` says so, ValueError when the device is not there.
    """
    target = device_for(device)
    if processes is None:
        processes = torch.cuda.device_count() if target.type == "cuda" else 1
    preprocessing = Preprocessing.fitted_to(data.renditions, recipe)
    steps_per_epoch = max(1, math.ceil(len(data) / recipe.batch_size))
    schedule = Schedule((epochs or recipe.epochs) * steps_per_epoch, steps_per_epoch)
    start = (shape, recipe, build, preprocessing, schedule, seed, resume_dir)
    with team_of(processes, target, follow, *start) as team:
        loop = _Loop.begun(team, *start)
        _lead(loop, data, validation, max_seconds, resume_dir, on_progress, should_stop)
    network = cast(N, loop.learner.network.eval().to("cpu"))
    if recipe.batch_norm:
        fold_batch_norms(network)
    return network, preprocessing, schedule.history


def follow(team: Team, *start: Any) -> None:
    """What a process of the team does that does not lead it."""
    loop = _Loop.begun(team, *start)
    like = Batch(torch.zeros(1, 1, INPUT_SIZE, INPUT_SIZE), *torch.zeros(2, 1, dtype=torch.int64))
    for (loop.schedule.step, loop.schedule.total_steps), share in team.handed_out(like):
        loop.step(Batch(*share))


def _lead(
    loop: "_Loop",
    data: TrainingData,
    validation: TrainingData,
    max_seconds: float | None,
    resume_dir: Path | None,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> None:
    schedule, recipe = loop.schedule, loop.recipe
    started = saved = time.monotonic()
    first_step = schedule.step
    while schedule.step < schedule.total_steps:
        epoch_started, loss_sum, right, seen = time.monotonic(), 0.0, 0, 0
        for batch in loop.batches(data):
            share = Batch(*loop.team.hand_out((schedule.step, schedule.total_steps), batch))
            loss, correct = loop.step(share)
            size = len(share.organs)
            loss_sum, right, seen = loss_sum + loss * size, right + correct, seen + size
            schedule.step += 1
            rate = (schedule.step - first_step) / (time.monotonic() - started)  # steps a second
            if max_seconds and not first_step and schedule.step == MEASURED_STEPS:
                affordable = int(max_seconds * _steady_rate(loop))
                schedule.total_steps = min(schedule.total_steps, max(affordable, MEASURED_STEPS))
            on_progress(_progress(schedule, rate, recipe, loss))
            if should_stop() or schedule.step >= schedule.total_steps:
                break
        result = EpochResult(_epoch(schedule), loss_sum / seen, right / seen)
        loop.validate(validation, result)
        result.seconds = round(time.monotonic() - epoch_started, 1)
        schedule.note(result)
        stopping = should_stop()
        if resume_dir and (stopping or time.monotonic() - saved > SAVE_SECONDS):
            save_state(resume_dir, loop.learner, loop.optimiser, schedule)
            saved = time.monotonic()
        on_progress(_progress(schedule, rate, recipe, result.train_loss, result))
        if stopping:
            raise Stopped


class Batch(NamedTuple):
    x: Tensor  # float32 (B, 1, 224, 224)
    organs: Tensor  # int64 (B,)
    modalities: Tensor  # int64 (B,)


class Learner(nn.Module):
    """The network and what it minimises."""

    def __init__(self, network: nn.Module, objective: Objective, in_bfloat16: bool) -> None:
        super().__init__()
        self.network, self.objective, self.in_bfloat16 = network, objective, in_bfloat16

    def forward(self, x: Tensor, organs: Tensor, modalities: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the organ logits (N, organs)."""
        output = self.see(x)
        return self.objective(output, organs, modalities), output.organ_logits

    def see(self, x: Tensor) -> NetworkOutput:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.in_bfloat16):
            output: NetworkOutput = self.network(x.to(memory_format=torch.channels_last))
        return output


@dataclass
class _Loop:
    """What one step needs."""

    team: Team
    learner: Learner
    joined: nn.Module  # the learner, as the team calls it
    optimiser: torch.optim.Optimizer
    preprocessing: Preprocessing
    recipe: Recipe
    schedule: Schedule
    seed: int
    step_ends: list[float] = field(default_factory=list)  # by the monotonic clock

    @classmethod
    def begun(
        cls,
        team: Team,
        shape: NetworkShape,
        recipe: Recipe,
        build: Callable[[NetworkShape, Recipe], nn.Module],
        preprocessing: Preprocessing,
        schedule: Schedule,
        seed: int,
        resume_dir: Path | None,
    ) -> "_Loop":
        """From scratch, the same for the same seed, or from the state found in `resume_dir`."""
        torch.manual_seed(seed)
        network = build(shape, recipe)
        learner = Learner(
            network, Objective(recipe, shape), recipe.bfloat16 and has_fast_bfloat16(team.device)
        )
        learner = learner.to(team.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = _optimiser(learner, recipe)
        if resume_dir is not None:
            load_state(resume_dir, learner, optimiser, schedule)
        torch.manual_seed(seed + team.rank)  # each process drops other units out
        return cls(team, learner, team.joined(learner), optimiser, preprocessing, recipe, schedule, seed)

    def batches(self, data: TrainingData) -> Iterator[Batch]:
        """Those of one epoch, or of what is left of it after a resume; the same for the same seed.

        Images are prepared by all cores, a piece of a batch each: on CUDA those of the next batches while the
        network learns from this one, on a CPU between two steps, which have all the cores as well.
        """
        ahead = AHEAD if self.team.device.type == "cuda" else 0
        with ThreadPoolExecutor(torch.get_num_threads(), "batches") as pool:
            coming = deque[list[Future[Batch]]]()
            for step, rows in enumerate(self.chosen(data), self.schedule.step):
                pieces = [(start, rows[start : start + PIECE]) for start in range(0, len(rows), PIECE)]
                coming.append([pool.submit(self.prepared, data, step, *piece) for piece in pieces])
                if len(coming) > ahead:
                    yield self.joined_up(coming.popleft())
            while coming:
                yield self.joined_up(coming.popleft())

    def chosen(self, data: TrainingData) -> list[NDArray[np.int64]]:
        """Row numbers, batch by batch."""
        epoch, done = divmod(self.schedule.step, self.schedule.steps_per_epoch)
        rng = np.random.default_rng([self.seed, epoch])
        if self.recipe.balanced:
            counts = np.bincount(data.organs[data.organs >= 0])
            weights = np.where(data.organs >= 0, 1.0 / np.maximum(counts, 1)[data.organs], 0.0)
            order = rng.choice(len(data), len(data), p=weights / weights.sum())
        else:
            order = rng.permutation(len(data))
        chosen = np.array_split(order, self.schedule.steps_per_epoch)[done:]  # none of a few images
        if isinstance(data.renditions, np.memmap):
            chosen = [np.sort(rows) for rows in chosen]  # read in the order of the file
        return chosen

    def prepared(self, data: TrainingData, step: int, start: int, rows: NDArray[np.int64]) -> Batch:
        """The piece of a step's batch that begins with image `start`."""
        renditions, augmentation = data.renditions[rows], self.recipe.augmentation
        if augmentation is None:
            x = self.preprocessing(renditions)
        else:
            rng = np.random.default_rng([self.seed, step, start])
            x = augment(renditions, self.preprocessing, augmentation, rng)
        return Batch(x, torch.from_numpy(data.organs[rows]), torch.from_numpy(data.modalities[rows]))

    def joined_up(self, pieces: list[Future[Batch]]) -> Batch:
        batch = Batch(*map(torch.cat, zip(*(piece.result() for piece in pieces), strict=True)))
        return Batch(*(t.pin_memory() for t in batch)) if self.team.device.type == "cuda" else batch

    def step(self, batch: Batch) -> tuple[float, int]:
        """One update; returns the loss and the number of organs predicted right, of this process's share."""
        self.learner.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.learning_rate(self.recipe)
        loss, organ_logits = self.joined(*batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.optimiser == "adamw":
            self.clip()
        self.optimiser.step()
        self.step_ends.append(time.monotonic())
        return float(loss.detach()), int((organ_logits.argmax(1) == batch.organs).sum())

    def clip(self) -> None:
        """As clip_grad_norm_, which goes through all gradients once more where nothing is to clip."""
        learning = [p for p in self.learner.parameters() if p.grad is not None]
        length = torch.nn.utils.get_total_norm([p.grad for p in learning if p.grad is not None])
        if length > LONGEST_GRADIENT:
            torch.nn.utils.clip_grads_with_norm_(learning, LONGEST_GRADIENT, length)

    @torch.inference_mode()
    def validate(self, data: TrainingData, result: EpochResult) -> None:
        if not len(data):
            return
        self.learner.eval()
        organ_logits, modality_logits = [], []
        for start in range(0, len(data), 64):
            x = self.preprocessing(data.renditions[start : start + 64])
            output = self.learner.see(x.to(self.team.device))
            organ_logits.append(output.organ_logits.float().cpu())
            if output.modality_logits is not None:
                modality_logits.append(output.modality_logits.float().cpu())
        logits, organs = torch.cat(organ_logits), torch.from_numpy(data.organs)
        result.val_loss = float(F.cross_entropy(logits, organs, ignore_index=-1))
        result.val_accuracy = float((logits.argmax(1) == organs)[organs >= 0].float().mean())
        known = torch.from_numpy(data.modalities >= 0)
        if modality_logits and known.any():
            predicted = torch.cat(modality_logits).argmax(1)
            result.val_modality_accuracy = float(
                (predicted == torch.from_numpy(data.modalities))[known].float().mean()
            )


def has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(supported) and _bfloat16_is_faster_here()


@functools.cache
def _bfloat16_is_faster_here() -> bool:
    """By a trial, a tenth of a second: there are processors that have bfloat16 and are slow in it."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        layer = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.randn(8, 256, 13, 13).to(memory_format=torch.channels_last).requires_grad_()
        seconds = {True: math.inf, False: math.inf}
        for low in (True, False) * 3:
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, low):
                y = layer(x)
            y.sum().backward()
            seconds[low] = min(seconds[low], time.perf_counter() - started)
    return seconds[True] < seconds[False]


def _optimiser(learner: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(learner.parameters(), lr=recipe.learning_rate)
    return torch.optim.AdamW(
        learner.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )


def _steady_rate(loop: _Loop) -> float:
    """Steps a second without the first one, which warms up; a tenth is kept for validation."""
    return 0.9 / float(np.diff(loop.step_ends).mean())


def _epoch(schedule: Schedule) -> int:
    return (schedule.step - 1) // schedule.steps_per_epoch + 1


def _progress(
    schedule: Schedule, rate: float, recipe: Recipe, loss: float, finished: EpochResult | None = None
) -> Progress:
    return Progress(
        epoch=_epoch(schedule),
        epochs=schedule.epochs,
        step=(schedule.step - 1) % schedule.steps_per_epoch + 1,
        steps=min(schedule.steps_per_epoch, schedule.total_steps),
        images_per_second=round(rate * recipe.batch_size, 1),
        seconds_left=round((schedule.total_steps - schedule.step) / rate, 1),
        loss=round(loss, 4),
        finished_epoch=finished,
    )
