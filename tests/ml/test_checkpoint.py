"""A checkpoint rebuilds everything; what is damaged, foreign or hostile is refused with its own sentence."""

import json
import pickle
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.calibration import Calibration
from ml.checkpoint import (
    FORMAT_VERSION,
    PRODUCT_VERSION,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    sha256_of,
)
from ml.network import OrganNetwork
from ml.preprocess import Preprocessing
from ml.projection import Projection
from tests.factories import save_tiny_checkpoint, tiny_shape

HUGE = 10**12
CARRIED = [
    "preprocessing",
    "organs",
    "modalities",
    "recipe",
    "metrics",
    "training",
    "calibration",
    "learnt_in",
]


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_tiny_checkpoint(folder)
    return folder


@pytest.fixture
def folder(saved_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_once, tmp_path / "checkpoint"))


def read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "model.json").read_text()))


def write(folder: Path, description: object) -> None:
    (folder / "model.json").write_text(json.dumps(description))


def change(folder: Path, **entries: object) -> None:
    write(folder, {**read(folder), **entries})


def change_within(folder: Path, name: str, **entries: object) -> None:
    change(folder, **{name: {**read(folder)[name], **entries}})


def rewrite_weights(folder: Path, alter: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Other weights under a right checksum."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    alter(tensors)
    save_file(tensors, folder / "model.safetensors")
    change(folder, sha256=sha256_of(folder / "model.safetensors"))


def test_a_checkpoint_rebuilds_everything(tmp_path: Path) -> None:
    network = OrganNetwork(tiny_shape())
    mean, *components = np.random.default_rng(0).random((513, 4096), np.float32)
    projection = Projection(mean, np.stack(components))
    saved = Checkpoint(
        network,
        Preprocessing(0.3, 0.2),
        projection,
        ["a", "b"],
        ["CT", "MR"],
        "paper",
        metrics={"x": 1},
        training={"epochs": 30},
        calibration=Calibration(1.5, 0.7, energy_threshold=-4.0),
        learnt_in={"a": ["CT", "MR"], "b": ["US"]},
    )
    save_checkpoint(saved, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    for name in CARRIED:
        assert getattr(loaded, name) == getattr(saved, name), name
    assert loaded.product_version == PRODUCT_VERSION
    assert loaded.network.shape == network.shape
    assert np.array_equal(loaded.projection.mean, projection.mean)
    assert np.array_equal(loaded.projection.components, projection.components)
    x = torch.rand(2, 1, 224, 224)
    assert torch.equal(loaded.network(x).fc1, network.eval()(x).fc1)


def older(folder: Path, version: int) -> None:
    """As the first versions of the format were, with 128 dimensions of the projection."""
    later = {"learnt_in"} | ({"training", "calibration", "product_version"} if version == 1 else set())
    write(folder, {k: v for k, v in read(folder).items() if k not in later} | {"format_version": version})

    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        tensors["projection.components"] = tensors["projection.components"][:128].clone()

    rewrite_weights(folder, narrow)
    if version == 1:
        write(folder, {k: v for k, v in read(folder).items() if k != "sha256"})


def test_a_checkpoint_of_the_first_format_loads(folder: Path) -> None:
    older(folder, 1)
    loaded = load_checkpoint(folder)
    assert (loaded.training, loaded.calibration, loaded.product_version) == ({}, Calibration(), "")
    assert loaded.learnt_in == {}


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_projection_is_filled_up(folder: Path, version: int) -> None:
    """What was projected before it was wider is what is projected now, and zeros."""
    before = load_checkpoint(folder)
    older(folder, version)
    loaded = load_checkpoint(folder)
    assert loaded.projection.components.shape == (512, 4096)
    fc1 = np.random.default_rng(0).random((3, 4096), np.float32)
    assert np.allclose(loaded.projection(fc1)[:, :128], before.projection(fc1)[:, :128], atol=1e-5)
    assert not loaded.projection(fc1)[:, 128:].any()


def test_a_projection_of_another_width_than_its_format_says_is_refused(folder: Path) -> None:
    change(folder, format_version=2)
    with pytest.raises(CheckpointError, match="weights do not fit its description"):
        load_checkpoint(folder)
    change(folder, format_version=3)
    rewrite_weights(folder, lambda tensors: tensors.update({"projection.components": torch.eye(128, 4096)}))
    with pytest.raises(CheckpointError, match="weights do not fit its description"):
        load_checkpoint(folder)


def test_what_a_reader_does_not_know_beside_the_network_is_left_alone(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: tensors.update({"later.thing": torch.ones(3)}))
    change(folder, later={"thing": [1, 2]})
    assert load_checkpoint(folder).organs == ["brain", "chest"]


def test_a_newer_format_is_told(folder: Path) -> None:
    change(folder, format_version=FORMAT_VERSION + 1)
    with pytest.raises(CheckpointError, match=r"has format version 5; .* A newer version of the product"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_told(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"cannot be read: {name}: No such file"):
        load_checkpoint(folder)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("keep", [0, 7, 0.5])
def test_truncated_weights_are_refused(folder: Path, version: int, keep: float) -> None:
    change(folder, format_version=version)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(folder)


def test_a_flipped_bit_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="wrong checksum"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"format_version": ' + b"9" * 5000]
)
def test_a_damaged_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="it is not JSON"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "foreign",
    [
        None,
        [],
        "text",
        {},
        {"format_version": 2},
        {"format_version": True, "architecture": {}},
        {"format_version": "2", "architecture": {}},
        {"format_version": 0, "architecture": {}},
        {"architectures": ["BertModel"], "hidden_size": 768},
    ],
)
def test_foreign_json_is_refused(folder: Path, foreign: object) -> None:
    write(folder, foreign)
    with pytest.raises(CheckpointError, match="does not describe a checkpoint of this product"):
        load_checkpoint(folder)


def test_an_enormous_description_is_not_read(folder: Path) -> None:
    with (folder / "model.json").open("wb") as file:
        file.truncate(2**34)  # a hole: it takes no space
    with pytest.raises(CheckpointError, match="too large"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"architecture": []}, "architecture is missing or"),
        ({"preprocessing": None}, "preprocessing is missing or"),
        ({"organs": "ab"}, "organs is missing or"),
        ({"organs": ["brain", 7]}, "organs is not a list of different names"),
        ({"organs": ["brain", ["chest"]]}, "organs is not a list of different names"),
        ({"organs": ["brain", "brain"]}, "organs is not a list of different names"),
        ({"organs": ["brain", ""]}, "organs is not a list of different names"),
        ({"organs": ["brain"]}, "1 organs for 2 outputs"),
        ({"modalities": ["CT", "MR", "US"]}, "3 modalities for 2 outputs"),
        ({"recipe": 3}, "recipe is missing or"),
        ({"metrics": [1]}, "metrics is missing or"),
        ({"training": "os.system"}, "training is missing or"),
        ({"calibration": 1.0}, "calibration is missing or"),
        ({"calibration": {"energy_threshold": "low"}}, "energy_threshold in calibration is not what"),
        ({"calibration": {"organ_temperature": 0}}, "calibration is not possible: a temperature has to be"),
        ({"learnt_in": ["CT"]}, "learnt_in is missing or"),
        ({"learnt_in": {"heart": ["CT"]}}, "learnt_in does not tell"),
        ({"learnt_in": {"brain": "CT"}}, "learnt_in does not tell"),
        ({"learnt_in": {"brain": [1]}}, "learnt_in does not tell"),
        ({"sha256": None}, "sha256 is missing or"),
        ({"sha256": "0" * 64}, "wrong checksum"),
    ],
)
def test_entries_of_the_wrong_kind_are_refused(folder: Path, entries: dict[str, Any], sentence: str) -> None:
    change(folder, **entries)
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "entries", "sentence"),
    [
        ("architecture", {"__class__": "os.system"}, "asks for '__class__'"),
        ("architecture", {"attention_heads": 12}, "asks for 'attention_heads'"),
        ("preprocessing", {"windowing": "lung"}, "asks for 'windowing'"),
        ("architecture", {"fc2": "64"}, "fc2 in architecture is not"),
        ("architecture", {"fc2": True}, "fc2 in architecture is not"),
        ("architecture", {"fc2": 64.0}, "fc2 in architecture is not"),
        ("architecture", {"channels": 4}, "channels in architecture is not"),
        ("architecture", {"channels": [4, 4, 4, 4, "4"]}, "channels in architecture is not"),
        ("architecture", {"channels": [4, 4]}, "cannot be built"),
        ("architecture", {"dropout": 7}, "cannot be built"),
        ("architecture", {"fc3": -1}, "cannot be built"),
        ("architecture", {"fc3": 0}, "cannot be built"),
        ("architecture", {"fc2": 10**400}, "cannot be built"),
        ("architecture", {"fc2": 64}, "weights do not fit"),
        ("architecture", {"channels": [8, 4, 4, 4, 4]}, "weights do not fit"),
        ("preprocessing", {"mean": "0.3"}, "mean in preprocessing is not"),
        ("preprocessing", {"mean": float("nan")}, "mean in preprocessing is not"),
        ("preprocessing", {"std": 0}, "no image can be described"),
        ("preprocessing", {"mean": 10**400}, "no image can be described"),
        ("preprocessing", {"crop": 100}, "no image can be described"),
        ("preprocessing", {"crop": -HUGE}, "have to lie between 1 and 256"),
        ("preprocessing", {"resolution": HUGE}, "have to lie between 1 and 256"),
    ],
)
def test_impossible_networks_are_refused(
    folder: Path, name: str, entries: dict[str, Any], sentence: str
) -> None:
    change_within(folder, name, **entries)
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(folder)


@contextmanager
def little_memory(more_bytes: int) -> Iterator[None]:
    """The process may take no more than this beside what it has."""
    taken = psutil.Process().memory_info().vms
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"fc1": HUGE}, "weights do not fit"),
        ({"fc2": HUGE}, "weights do not fit"),
        ({"fc2": HUGE, "fc3": HUGE}, "cannot be built"),
        ({"channels": [HUGE] * 5}, "cannot be built"),
        ({"organs": HUGE}, f"2 organs for {HUGE} outputs"),
    ],
)
def test_enormous_networks_are_refused_before_memory_is_taken(
    folder: Path, sizes: dict[str, Any], sentence: str
) -> None:
    change_within(folder, "architecture", **sizes)
    with little_memory(2**28), pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    rewrite_weights(folder, lambda tensors: tensors["network.conv3.weight"].view(-1)[5].fill_(value))
    with pytest.raises(CheckpointError, match="not all finite"):
        load_checkpoint(folder)


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: tensors.pop("network.conv3.weight"))
    with pytest.raises(CheckpointError, match="weights do not fit"):
        load_checkpoint(folder)


def test_weights_of_another_precision_are_refused(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: tensors.update({k: t.half() for k, t in tensors.items()}))
    with pytest.raises(CheckpointError, match="weights do not fit"):
        load_checkpoint(folder)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("version", [1, 2])
def test_a_pickle_is_refused_and_not_executed(folder: Path, tmp_path: Path, version: int) -> None:
    sprung = tmp_path / "sprung"
    content = pickle.dumps(Trap(sprung))
    for name in ("model.safetensors", "pytorch_model.bin", "model.pkl"):
        (folder / name).write_bytes(content)
    change(folder, format_version=version, sha256=sha256_of(folder / "model.safetensors"))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(folder)
    assert not sprung.exists()
    pickle.loads(content)
    assert sprung.exists()  # the trap works
