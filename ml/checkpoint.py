"""A trained network on disk: model.safetensors and model.json, which rebuild everything by themselves.

docs/architecture.md describes the format. Reading takes what both files say for claims: nothing is executed,
and nothing is believed before it is checked.
"""

import hashlib
import json
import math
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ingest.renditions import RENDITION_SIZE
from ml.calibration import Calibration
from ml.network import NetworkShape, OrganNetwork
from ml.preprocess import INPUT_SIZE, Preprocessing
from ml.projection import DIMENSIONS, Projection

# 3 did not say what organs were learnt in; 2 had fewer dimensions of the projection; 1 also no checksum,
# training and calibration.
FORMAT_VERSION = 4
EARLIER_DIMENSIONS = 128  # of the projection, before version 3
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
MOST_DESCRIPTION_BYTES = 16 * 2**20
PRODUCT_VERSION: str = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
    "version"
]


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
    training: dict[str, Any] = field(default_factory=dict)  # the recipe's parameters
    calibration: Calibration = field(default_factory=Calibration)
    learnt_in: dict[str, list[str]] = field(default_factory=dict)  # organ: modalities; no organ: not known
    product_version: str = PRODUCT_VERSION  # that made it; "" where it was not noted


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write both files under temporary names and rename them: a reader never sees half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, described = folder / f"{WEIGHTS}.partial", folder / f"{DESCRIPTION}.partial"
    tensors = {f"network.{name}": t.contiguous() for name, t in checkpoint.network.state_dict().items()}
    tensors["projection.mean"] = torch.from_numpy(checkpoint.projection.mean)
    tensors["projection.components"] = torch.from_numpy(checkpoint.projection.components)
    save_file(tensors, weights)
    description = {
        "format_version": FORMAT_VERSION,
        "product_version": checkpoint.product_version,
        "sha256": sha256_of(weights),
        "architecture": checkpoint.network.shape.as_json(),
        "preprocessing": checkpoint.preprocessing.as_json(),
        "organs": checkpoint.organs,
        "modalities": checkpoint.modalities,
        "recipe": checkpoint.recipe,
        "training": checkpoint.training,
        "metrics": checkpoint.metrics,
        "calibration": checkpoint.calibration.as_json(),
        "learnt_in": checkpoint.learnt_in,
    }
    described.write_text(json.dumps(description, indent=1))
    weights.rename(folder / WEIGHTS)
    described.rename(folder / DESCRIPTION)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Rebuild the network from a folder, of this format version or an older one. Raises CheckpointError."""
    try:
        description = read_description(folder / DESCRIPTION)
        shape = rebuilt(NetworkShape, "architecture", description)
        preprocessing = rebuilt(Preprocessing, "preprocessing", description)
        check_on_a_picture(preprocessing)
        organs = names_in(description, "organs", shape.organs)
        modalities = names_in(description, "modalities", shape.modalities)
        learnt_in = modalities_by_organ(description, organs)
        network = empty_network(shape)
        dimensions = DIMENSIONS if description["format_version"] >= 3 else EARLIER_DIMENSIONS
        tensors = read_tensors(folder / WEIGHTS, wanted_tensors(network, dimensions), description)
    except OSError as error:
        name = Path(error.filename or folder).name
        raise CheckpointError(f"The checkpoint cannot be read: {name}: {error.strerror}.") from error
    weights = {k.removeprefix("network."): t for k, t in tensors.items() if k.startswith("network.")}
    network.load_state_dict(weights, assign=True)
    return Checkpoint(
        network=network.eval(),
        preprocessing=preprocessing,
        projection=Projection(
            tensors["projection.mean"].numpy(), with_all_dimensions(tensors["projection.components"].numpy())
        ),
        organs=organs,
        modalities=modalities,
        recipe=entry(description, "recipe", str),
        metrics=entry(description, "metrics", dict),
        training=entry(description, "training", dict, {}),
        calibration=rebuilt(Calibration, "calibration", {"calibration": {}, **description}),
        learnt_in=learnt_in,
        product_version=entry(description, "product_version", str, ""),
    )


def with_all_dimensions(components: NDArray[np.float32]) -> NDArray[np.float32]:
    """(512, 4096): of an earlier projection the dimensions that it lacks are 0 for every image."""
    missing = DIMENSIONS - len(components)
    return np.pad(components, ((0, missing), (0, 0))) if missing else components


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_description(path: Path) -> dict[str, Any]:
    """model.json as a dictionary of a format version that is known here."""
    if path.stat().st_size > MOST_DESCRIPTION_BYTES:
        raise CheckpointError(f"{DESCRIPTION} is too large to be a checkpoint's description.")
    try:
        description = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{DESCRIPTION} is damaged: it is not JSON.") from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if type(version) is not int or version < 1 or "architecture" not in description:
        raise CheckpointError(f"{DESCRIPTION} does not describe a checkpoint of this product.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"The checkpoint has format version {version}; this version of the product reads those up to "
            f"{FORMAT_VERSION}. A newer version of the product is needed."
        )
    return dict(description)


Kind = TypeVar("Kind")


def entry(description: dict[str, Any], name: str, kind: type[Kind], missing: Kind | None = None) -> Kind:
    value = description.get(name, missing)
    if not isinstance(value, kind):
        raise CheckpointError(f"{DESCRIPTION}: {name} is missing or not what it should be.")
    return value


def names_in(description: dict[str, Any], name: str, number: int) -> list[str]:
    """As many different names as the network has outputs for them."""
    names = entry(description, name, list)
    if not all(isinstance(n, str) and n for n in names) or len({*names}) != len(names):
        raise CheckpointError(f"{DESCRIPTION}: {name} is not a list of different names.")
    if len(names) != number:
        raise CheckpointError(f"{DESCRIPTION}: {len(names)} {name} for {number} outputs of the network.")
    return names


def modalities_by_organ(description: dict[str, Any], organs: list[str]) -> dict[str, list[str]]:
    found = entry(description, "learnt_in", dict, {})
    if not found.keys() <= {*organs} or not all(fits(codes, list[str]) for codes in found.values()):
        raise CheckpointError(f"{DESCRIPTION}: learnt_in does not tell modalities of its organs.")
    return found


def rebuilt(cls: type[Kind], name: str, description: dict[str, Any]) -> Kind:
    """A dataclass from its JSON. What it has no field for would change what is seen: it is refused."""
    given = entry(description, name, dict)
    kinds = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(given.keys() - known.keys()):
        raise CheckpointError(f"{DESCRIPTION}: {name} asks for {unknown[0]!r}, which is not known here.")
    for key, f in known.items():
        if key in given and not fits(given[key], kinds[key]):
            raise CheckpointError(f"{DESCRIPTION}: {key} in {name} is not what it should be.")
        if key not in given and f.default is MISSING and f.default_factory is MISSING:
            raise CheckpointError(f"{DESCRIPTION}: {key} in {name} is missing.")
    try:
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})
    except ValueError as error:
        raise CheckpointError(f"{DESCRIPTION}: {name} is not possible: {error}") from error


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of the annotated type: a list does for a tuple, a whole number for float."""
    if get_origin(kind) in (tuple, list):
        return isinstance(value, list) and all(fits(v, get_args(kind)[0]) for v in value)
    if isinstance(kind, UnionType):
        return any(fits(value, each) for each in get_args(kind))
    if kind is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is kind  # not isinstance: True is no number


def check_on_a_picture(preprocessing: Preprocessing) -> None:
    """Numbers of the right type may still be impossible: what counts is whether the network can take it."""
    ramp = np.tile(np.arange(RENDITION_SIZE, dtype=np.uint8), (1, RENDITION_SIZE, 1))
    try:
        x = preprocessing(ramp)
        possible = x.shape == (1, 1, INPUT_SIZE, INPUT_SIZE) and bool(x.isfinite().all())
    except (RuntimeError, ValueError, TypeError, ArithmeticError):
        possible = False
    if not possible:
        raise CheckpointError(f"{DESCRIPTION}: with this preprocessing no image can be described.")


def empty_network(shape: NetworkShape) -> OrganNetwork:
    """The network without memory for its weights."""
    try:
        with torch.device("meta"):
            network = OrganNetwork(shape).eval()
        if not all(weights.numel() for weights in network.parameters()):
            raise ValueError("a layer without weights")
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError("The checkpoint describes a network that cannot be built.") from error
    return network


def wanted_tensors(network: OrganNetwork, dimensions: int) -> dict[str, tuple[int, ...]]:
    fc1 = network.shape.fc1
    return {
        **{f"network.{name}": tuple(t.shape) for name, t in network.state_dict().items()},
        "projection.mean": (fc1,),
        "projection.components": (dimensions, fc1),
    }


def read_tensors(
    path: Path, wanted: dict[str, tuple[int, ...]], description: dict[str, Any]
) -> dict[str, Tensor]:
    """float32 tensors of these names and shapes; sizes are compared before memory is taken for them."""
    if description["format_version"] > 1 and entry(description, "sha256", str) != sha256_of(path):
        raise CheckpointError(f"{WEIGHTS} is damaged, or belongs to another {DESCRIPTION}: wrong checksum.")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            found = {name: tuple(s.get_shape()) for name, s in slices.items() if s.get_dtype() == "F32"}
            if any(found.get(name) != size for name, size in wanted.items()):
                raise CheckpointError("The checkpoint's weights do not fit its description.")
            tensors = {name: file.get_tensor(name) for name in wanted}
    except SafetensorError as error:
        raise CheckpointError(f"{WEIGHTS} is damaged: it is not a safetensors file.") from error
    extremes = [torch.stack(t.aminmax()) for t in tensors.values()]  # NaN where there is one
    if not all(bool(e.isfinite().all()) for e in extremes):
        raise CheckpointError("The checkpoint's weights are not all finite numbers.")
    return tensors
