"""Where a training is, how far it goes, and the files that a killed one takes up again from."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ml.recipes import Recipe


@dataclass
class EpochResult:
    epoch: int  # from 1
    train_loss: float
    train_accuracy: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_modality_accuracy: float | None = None
    seconds: float = 0.0


@dataclass
class Schedule:
    """Where the training is and how far it goes, in steps (batches)."""

    total_steps: int
    steps_per_epoch: int
    step: int = 0
    history: list[EpochResult] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def note(self, result: EpochResult) -> None:
        """Of a finished epoch, or of one that was stopped and goes on later: it is noted once."""
        self.history = [*(earlier for earlier in self.history if earlier.epoch < result.epoch), result]

    def learning_rate(self, recipe: Recipe) -> float:
        if not recipe.one_cycle:
            return recipe.learning_rate
        done = self.step / max(self.total_steps, 1)
        warm = min(1.0, (self.step + 1) / max(1, min(200, 0.1 * self.total_steps)))
        return recipe.learning_rate * warm * (0.5 * (1 + math.cos(math.pi * min(done, 1.0))) + 0.01)


def save_state(
    folder: Path, learner: nn.Module, optimiser: torch.optim.Optimizer, schedule: Schedule
) -> None:
    """Weights, optimiser and schedule, written under temporary names and then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"learner.{name}": t for name, t in learner.state_dict().items()}
    for index, entry in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in entry.items()}
    name = f"state-{schedule.step}.safetensors"
    save_file({key: t.contiguous().cpu() for key, t in tensors.items()}, folder / f"{name}.partial")
    (folder / f"{name}.partial").rename(folder / name)
    (folder / "state.json.partial").write_text(json.dumps({"file": name, **asdict(schedule)}))
    (folder / "state.json.partial").rename(folder / "state.json")
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_state(
    folder: Path, learner: nn.Module, optimiser: torch.optim.Optimizer, schedule: Schedule
) -> bool:
    """Continue from what `save_state` left; False where there is nothing, or that of another network."""
    if not (folder / "state.json").exists():
        return False
    description = json.loads((folder / "state.json").read_text())
    tensors = load_file(folder / description["file"])
    weights = {k[8:]: v for k, v in tensors.items() if k.startswith("learner.")}
    if weights.keys() != learner.state_dict().keys():
        return False
    learner.load_state_dict(weights)
    state = optimiser.state_dict()
    for key, tensor in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            state["state"].setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict(state)
    for parameter, entry in optimiser.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:  # the update takes both in the order of memory
                entry[name] = torch.empty_like(parameter).copy_(value)
    schedule.total_steps, schedule.step = description["total_steps"], description["step"]
    schedule.history = [EpochResult(**entry) for entry in description["history"]]
    return True
