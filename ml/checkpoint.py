"""A trained network on disk: model.safetensors and model.json, which rebuild everything by themselves."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ml.network import NetworkShape, OrganNetwork
from ml.preprocess import Preprocessing
from ml.projection import Projection

FORMAT_VERSION = 1


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    network: OrganNetwork
    preprocessing: Preprocessing
    projection: Projection
    organs: list[str]  # in the order of the organ head's outputs
    modalities: list[str]  # in the order of the modality head's outputs; empty without that head
    recipe: str
    metrics: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write both files under temporary names and rename them: a reader never sees half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"network.{name}": t.contiguous() for name, t in checkpoint.network.state_dict().items()}
    tensors["projection.mean"] = torch.from_numpy(checkpoint.projection.mean)
    tensors["projection.components"] = torch.from_numpy(checkpoint.projection.components)
    description = {
        "format_version": FORMAT_VERSION,
        "architecture": checkpoint.network.shape.as_json(),
        "preprocessing": checkpoint.preprocessing.as_json(),
        "organs": checkpoint.organs,
        "modalities": checkpoint.modalities,
        "recipe": checkpoint.recipe,
        "metrics": checkpoint.metrics,
    }
    save_file(tensors, folder / "model.safetensors.partial")
    (folder / "model.json.partial").write_text(json.dumps(description, indent=1))
    (folder / "model.safetensors.partial").rename(folder / "model.safetensors")
    (folder / "model.json.partial").rename(folder / "model.json")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Rebuild the network from a folder. Raises CheckpointError."""
    try:
        description = json.loads((folder / "model.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint cannot be read: {type(error).__name__}.") from error
    if description.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"The checkpoint has format version {description.get('format_version')}, not {FORMAT_VERSION}."
        )
    try:
        with torch.device("meta"):
            network = OrganNetwork(NetworkShape.from_json(description["architecture"]))
        weights = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
        network.load_state_dict(weights, assign=True)
    except (RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError("The checkpoint's weights do not fit its description.") from error
    return Checkpoint(
        network=network.eval(),
        preprocessing=Preprocessing(**description["preprocessing"]),
        projection=Projection(tensors["projection.mean"].numpy(), tensors["projection.components"].numpy()),
        organs=description["organs"],
        modalities=description["modalities"],
        recipe=description["recipe"],
        metrics=description["metrics"],
    )
