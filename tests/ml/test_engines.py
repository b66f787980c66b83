"""The engines see the same in the same image, and the one that is wanted or possible is taken."""

import io
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ingest.phantoms import PHANTOMS
from ingest.phantoms.writing import make_phantom
from ingest.reading import read_image
from ingest.renditions import decode_rendition, network_rendition
from ml import engines
from ml.calibration import softmax
from ml.checkpoint import Checkpoint
from ml.engines import OpenVinoEngine, Outputs, TorchEngine, engine_for
from ml.inference import ImageDescriber
from ml.network import NetworkOutput, NetworkShape, OrganNetwork, initialise_for_relu
from ml.preprocess import Preprocessing
from ml.projection import QuickProjection, fit_projection
from tests.factories import make_pixels, save_tiny_checkpoint, tiny_shape
from tests.processes import ROOT

SOME = PHANTOMS[::2]
ORGANS = sorted({phantom.organ for phantom in SOME})
MODALITIES = sorted({phantom.modality for phantom in SOME})
COSINE = 0.9999
TIE = 0.01  # two classes whose probabilities are nearer than this: rounding may decide between them
LEARNT_FROM, ASKED_WITH = range(1, 7), range(7, 10)  # numbers of phantom patients
EPOCHS = 15


class Pictures(NamedTuple):
    x: Tensor  # float32 (N, 1, 224, 224)
    organs: Tensor
    modalities: Tensor

    def part(self, chosen: Tensor) -> "Pictures":
        return Pictures(*(values[chosen] for values in self))


def phantoms_of(patients: range) -> Pictures:
    pairs = [(phantom, patient) for phantom in SOME for patient in patients]
    renditions = []
    for phantom, patient in pairs:
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, make_phantom(phantom, patient, 1, 1), enforce_file_format=True)
        pixels = read_image(buffer.getvalue()).frames[0].pixels
        renditions.append(decode_rendition(io.BytesIO(network_rendition(pixels))))
    return Pictures(
        Preprocessing()(np.stack(renditions)),
        torch.tensor([ORGANS.index(phantom.organ) for phantom, _ in pairs]),
        torch.tensor([MODALITIES.index(phantom.modality) for phantom, _ in pairs]),
    )


def make_network(shape: NetworkShape) -> OrganNetwork:
    torch.manual_seed(0)
    network = OrganNetwork(shape)
    initialise_for_relu(network)
    return network.eval()


@pytest.fixture(scope="module")
def full_size() -> OrganNetwork:
    """The paper's network, untrained: sums as long as they get."""
    return make_network(NetworkShape(organs=19, modalities=9))


@pytest.fixture(scope="module")
def trained() -> OrganNetwork:
    """A narrower network that tells the organs and modalities of phantoms apart."""
    pictures = phantoms_of(LEARNT_FROM)
    sizes = {"channels": (16, 32, 48, 32, 32), "fc2": 128, "fc3": 128, "dropout": 0.0}
    network = make_network(NetworkShape(len(ORGANS), len(MODALITIES), **sizes)).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(pictures.x)).split(16):
            x, organs, modalities = pictures.part(batch)
            seen = network(x)
            loss = cross_entropy(seen.organ_logits, organs)
            loss = loss + cross_entropy(seen.modality_logits, modalities)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return network.eval()


@pytest.fixture(scope="module")
def asked() -> Pictures:
    """Phantoms of other patients than those learnt from."""
    return phantoms_of(ASKED_WITH)


@pytest.fixture(scope="module", params=["openvino", "cuda"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return str(request.param)


def least_cosine(seen: Outputs, expected: Outputs) -> float:
    lengths = np.linalg.norm(seen.fc1, axis=1) * np.linalg.norm(expected.fc1, axis=1)
    return float(((seen.fc1 * expected.fc1).sum(1) / lengths).min())


def test_fc1_agrees_in_a_network_of_full_size(kind: str, full_size: OrganNetwork, asked: Pictures) -> None:
    x = asked.x[::3]
    expected = TorchEngine(full_size, "cpu")(x)
    seen = engine_for(full_size, kind)(x)
    assert (seen.fc1.shape, seen.fc1.dtype) == ((len(x), 4096), np.float32)
    assert least_cosine(seen, expected) >= COSINE


def test_a_trained_network_sees_the_same_by_every_engine(
    kind: str, trained: OrganNetwork, asked: Pictures
) -> None:
    expected = TorchEngine(trained, "cpu")(asked.x)
    seen = engine_for(trained, kind)(asked.x)
    assert least_cosine(seen, expected) >= COSINE
    for logits, others, truth in [
        (expected.organ_logits, seen.organ_logits, asked.organs),
        (expected.modality_logits, seen.modality_logits, asked.modalities),
    ]:
        assert logits is not None
        assert others is not None
        first = logits.argmax(1)
        assert np.mean(first == truth.numpy()) > 0.85  # it has learnt: its first choice means something
        probabilities = np.sort(softmax(logits), axis=1)
        clear = probabilities[:, -1] - probabilities[:, -2] > TIE
        assert np.mean(clear) > 0.95
        assert np.array_equal(others.argmax(1)[clear], first[clear])
        assert np.abs(softmax(others) - softmax(logits)).max() < TIE / 2


def test_any_batch_size_gives_the_same(kind: str, trained: OrganNetwork, asked: Pictures) -> None:
    engine = engine_for(trained, kind)
    together = engine(asked.x[:5])
    for n in range(5):
        alone = engine(asked.x[n : n + 1])
        assert least_cosine(alone, Outputs(together.fc1[n : n + 1], together.organ_logits, None)) >= COSINE


def test_a_network_without_modality_head(kind: str, asked: Pictures) -> None:
    seen = engine_for(make_network(tiny_shape(3, 0)), kind)(asked.x[:2])
    assert seen.modality_logits is None
    assert seen.organ_logits.shape == (2, 3)


def test_results_stay_as_they_were_when_the_engine_goes_on(kind: str, asked: Pictures) -> None:
    """An engine must not hand out memory that it writes to again."""
    engine = engine_for(make_network(tiny_shape()), kind)
    first = engine(asked.x[:1])
    kept = first.fc1.copy()
    engine(asked.x[1:2])
    assert np.array_equal(first.fc1, kept)


def test_threads_may_share_an_engine(kind: str, asked: Pictures) -> None:
    engine = engine_for(make_network(tiny_shape()), kind)
    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(lambda n: engine(asked.x[n : n + 1]), range(12)))
    for n, together in enumerate(seen):
        alone = engine(asked.x[n : n + 1])
        assert np.allclose(together.fc1, alone.fc1, rtol=1e-3, atol=1e-3)


def test_the_engine_is_chosen_by_the_machine() -> None:
    expected = TorchEngine if torch.cuda.is_available() else OpenVinoEngine
    assert isinstance(engine_for(make_network(tiny_shape())), expected)


def test_the_engine_that_is_named_is_taken() -> None:
    chosen = [engine_for(make_network(tiny_shape()), name) for name in ("torch", "openvino")]
    assert chosen[0].name == "PyTorch, CPU float32"
    assert chosen[1].name in {"OpenVINO, CPU bfloat16", "OpenVINO, CPU float32"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_in_vain_is_told() -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        engine_for(make_network(tiny_shape()), "cuda")


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    engines._tell_of_fallback.cache_clear()


def test_without_openvino_torch_takes_its_place_and_says_so_once(
    without_openvino: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert [engines.cpu_engine(make_network(tiny_shape())).name for _ in range(2)] == [
        "PyTorch, CPU float32"
    ] * 2
    (record,) = caplog.records
    assert "PyTorch on the CPU takes its place" in record.getMessage()


def test_openvino_in_vain_is_told(without_openvino: None) -> None:
    with pytest.raises(ValueError, match="OpenVINO does not run here"):
        engine_for(make_network(tiny_shape()), "openvino")


WATCHED = """
import sys, threading, time
import torch
from ml.network import NetworkShape, OrganNetwork
seen = []
def watch(event, _):
    if event.startswith(("socket.", "subprocess.")):
        seen.append(event)
sys.addaudithook(watch)
from ml.engines import OpenVinoEngine
engine = OpenVinoEngine(OrganNetwork(NetworkShape(2, 2, channels=(4,) * 5, fc1=8, fc2=8, fc3=8)))
engine(torch.zeros(1, 1, 224, 224))
assert "openvino_telemetry.main" not in sys.modules
time.sleep(1)  # a message would be sent by a thread or a process of its own
assert threading.active_count() == 1, threading.enumerate()
assert seen == [], seen
"""


def test_the_engine_tells_nobody_that_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


class Narrow(OrganNetwork):
    """Runs out of memory with more images than it has room for, as a GPU does."""

    room = 4

    def forward(self, x: Tensor) -> NetworkOutput:
        if len(x) > self.room:
            raise torch.OutOfMemoryError
        return super().forward(x)


def test_a_batch_too_large_for_the_memory_is_halved(asked: Pictures) -> None:
    torch.manual_seed(0)
    network = Narrow(tiny_shape())
    engine = TorchEngine(network)
    seen = engine(asked.x[:11])
    assert engine.batch_size <= Narrow.room
    network.room = 11
    assert np.allclose(seen.fc1, engine(asked.x[:11]).fc1, atol=1e-4)
    network.room = 0
    with pytest.raises(torch.OutOfMemoryError):
        engine(asked.x[:2])


@pytest.mark.parametrize("learnt_from", [100, 700])  # fewer and more than there are components
@pytest.mark.parametrize("share_above_zero", [0.0, 0.1, 1.0])
def test_the_quick_projection_is_the_projection(learnt_from: int, share_above_zero: float) -> None:
    rng = np.random.default_rng(0)
    fc1 = rng.random((learnt_from + 19, 4096), np.float32)
    projection, asked = fit_projection(fc1[:learnt_from]), fc1[learnt_from:]
    asked *= rng.random(asked.shape) < share_above_zero
    quick = QuickProjection(projection)
    assert np.abs(quick(asked) - projection(asked)).max() < 2e-5 * np.linalg.norm(fc1[0])
    assert np.array_equal(quick(asked[:1]), quick(asked)[:1])
    with pytest.raises(ValueError, match="4096 numbers"):
        quick(asked[:, 1:])


@pytest.mark.parametrize("modalities", [0, 2])
def test_a_describer_batches_and_keeps_the_order(modalities: int) -> None:
    network = make_network(tiny_shape(2, modalities))
    projection = fit_projection(np.random.default_rng(0).random((20, 4096), np.float32))
    names = ["CT", "MR"][:modalities]
    engine = TorchEngine(network, "cpu")
    engine.batch_size = 2
    renditions = np.stack([make_pixels(seed, size=256) for seed in range(5)])
    checkpoint = Checkpoint(network, Preprocessing(), projection, ["a", "b"], names, "default")
    seen = ImageDescriber(checkpoint, engine).describe(renditions)
    expected = engine(Preprocessing()(renditions))
    assert np.allclose(seen.fc1, expected.fc1, atol=1e-4)
    assert np.allclose(seen.projection, projection(seen.fc1), atol=1e-5 * np.linalg.norm(seen.fc1))
    assert np.allclose(seen.organ_probabilities, softmax(expected.organ_logits), atol=1e-5)
    assert seen.organ_probabilities.sum(1) == pytest.approx(np.ones(5), abs=1e-5)
    if expected.modality_logits is None:
        assert seen.modality_probabilities is None
    else:
        assert np.allclose(seen.modality_probabilities, softmax(expected.modality_logits), atol=1e-5)


def test_an_organ_that_was_not_learnt_in_the_known_modality_is_unlikely(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path, learnt_in={"brain": ["CT", "MR"], "chest": ["CT"]})
    describer = ImageDescriber.from_checkpoint(tmp_path, "torch")
    seen = np.array([0.2, 0.8], np.float32)
    assert describer.knowing_modality(seen, ["MR"]) == pytest.approx([0.2 / 0.208, 0.008 / 0.208])
    for unchanged in (["CT"], ["MR", "CT"], ["US"], []):
        assert describer.knowing_modality(seen, unchanged) == pytest.approx(seen), unchanged


def test_an_organ_of_unknown_modalities_may_be_in_any(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path, learnt_in={"brain": ["MR"]})
    describer = ImageDescriber.from_checkpoint(tmp_path, "torch")
    seen = np.array([0.2, 0.8], np.float32)
    for codes in (["MR"], ["CT"]):
        assert describer.knowing_modality(seen, codes) == pytest.approx(seen), codes


def test_probabilities_of_large_logits_are_numbers() -> None:
    assert softmax(np.array([[1000.0, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]


def test_an_image_is_described_alike_alone_and_among_others(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path)
    describer = ImageDescriber.from_checkpoint(tmp_path)  # by the engine of this machine
    renditions = np.stack([make_pixels(seed, ("brain", "chest")[seed % 2], 256) for seed in range(40)])
    together = describer.describe(renditions)  # more than a batch
    for n in (0, 33):
        alone = describer.describe(renditions[n : n + 1])
        distance = np.linalg.norm(alone.fc1[0] - together.fc1[n])
        assert distance < 0.01 * np.linalg.norm(together.fc1[n])
