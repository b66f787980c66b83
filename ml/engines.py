"""The ways to run a trained network: PyTorch on CUDA, OpenVINO on a CPU, PyTorch on a CPU.

Each takes normalised images, float32 (N, 1, 224, 224), and gives NumPy arrays in float32. FC1 of one image
agrees across them (cosine of at least 0.9999), so a collection may be indexed by one and asked by another.
"""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.network import OrganNetwork, device_for

logger = logging.getLogger(__name__)


class Outputs(NamedTuple):
    fc1: NDArray[np.float32]  # (N, 4096), after ReLU
    organ_logits: NDArray[np.float32]  # (N, organs)
    modality_logits: NDArray[np.float32] | None = None  # (N, modalities)


class Engine(Protocol):
    name: str  # for people
    batch_size: int  # how many images to give it at a time

    def __call__(self, images: Tensor | NDArray[np.float32]) -> Outputs: ...


class TorchEngine:
    """float32 on a CPU; bfloat16 on CUDA where the GPU has it, with sums in float32."""

    def __init__(self, network: OrganNetwork, device: str = "auto") -> None:
        """Raises ValueError when `device` is cuda and there is none."""
        self.device = device_for(device)
        on_cuda = self.device.type == "cuda"
        self._in_bfloat16 = on_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        self.name = f"PyTorch, {self.device.type.upper()} {'bfloat16' if self._in_bfloat16 else 'float32'}"
        # A CPU gains nothing from more than 32, which take 100 MB beside the weights: nothing to adapt there.
        self.batch_size = 256 if on_cuda else 32
        self._network = network.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Tensor | NDArray[np.float32]) -> Outputs:
        """On CUDA a batch that does not fit the memory goes through in halves, as do all after it."""
        try:
            return self._run(images)
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        # Out of the except clause: the traceback held what the failed attempt had allocated.
        torch.cuda.empty_cache()
        half = len(images) // 2
        self.batch_size = min(self.batch_size, half)
        logger.warning("The GPU's memory is too small for %d images at a time; %d now.", len(images), half)
        return joined([self(images[:half]), self(images[half:])])

    @torch.inference_mode()
    def _run(self, images: Tensor | NDArray[np.float32]) -> Outputs:
        x = torch.as_tensor(images).to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._in_bfloat16):
            seen = self._network(x)
        return Outputs(*(None if t is None else t.float().cpu().numpy() for t in seen))  # type: ignore[arg-type]


class OpenVinoEngine:
    """OpenVINO on a CPU: bfloat16 where the processor has it and is faster in it, float32 otherwise."""

    batch_size = 32

    def __init__(self, network: OrganNetwork, calls_at_once: int = 1) -> None:
        """`calls_at_once`: how many threads may calculate side by side, each on its share of the cores.

        One is soonest done with all cores. Several that have other work between do more in all: none waits
        for a core that another one has.
        """
        # Importing OpenVINO tells its maker so, through this package. Nothing of a hospital leaves it.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino as ov

        model = ov.convert_model(
            _WithoutNone(network.eval()),
            example_input=torch.zeros(1, 1, 224, 224),
            input=[ov.PartialShape([-1, 1, 224, 224])],
        )
        core = ov.Core()
        has_bfloat16 = core.get_property("CPU", "INFERENCE_PRECISION_HINT") == ov.Type.bf16
        sharing = {"PERFORMANCE_HINT": "LATENCY"} if calls_at_once == 1 else {"NUM_STREAMS": calls_at_once}
        compiled = {
            kind: core.compile_model(model, "CPU", {**sharing, "INFERENCE_PRECISION_HINT": hint})
            for kind, hint in (("bfloat16", "bf16"), ("float32", "f32"))
            if has_bfloat16 or kind == "float32"
        }
        # Processors differ in this by a factor of two, either way; and one image from many.
        images = 1 if calls_at_once == 1 else self.batch_size
        kind = min(compiled, key=lambda kind: seconds_taken(compiled[kind], images))
        self._model = compiled[kind]
        self.name = f"OpenVINO, CPU {kind}"
        self._free = SimpleQueue[Any]()
        for _ in range(calls_at_once):
            self._free.put(self._model.create_infer_request())

    def __call__(self, images: Tensor | NDArray[np.float32]) -> Outputs:
        request = self._free.get()
        try:
            # Not shared: OpenVINO would write the next results into the same memory.
            seen = request.infer(np.asarray(images), share_inputs=True, share_outputs=False)
        finally:
            self._free.put(request)
        return Outputs(*seen.values())


def seconds_taken(model: Callable[[Any], object], images: int) -> float:
    """Of a call with so many images, the shortest of three."""
    batch, seconds = np.zeros((images, 1, 224, 224), np.float32), list[float]()
    for _ in range(3):
        started = time.perf_counter()
        model(batch)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


class _WithoutNone(nn.Module):
    """OpenVINO's converter takes no output that is None."""

    def __init__(self, network: OrganNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(t for t in self.network(x) if t is not None)


def engine_for(network: OrganNetwork, choice: str = "auto", calls_at_once: int = 1) -> Engine:
    """The engine of that name (openvino, torch, cuda); by itself CUDA, else OpenVINO, else PyTorch on CPU.

    `calls_at_once`: see OpenVinoEngine. Raises ValueError when the choice cannot be had on this machine.
    """
    if choice == "cuda" or (choice == "auto" and torch.cuda.is_available()):
        return TorchEngine(network, "cuda")
    if choice == "torch":
        return TorchEngine(network, "cpu")
    return cpu_engine(network, fall_back=choice == "auto", calls_at_once=calls_at_once)


def cpu_engine(network: OrganNetwork, fall_back: bool = True, calls_at_once: int = 1) -> Engine:
    """OpenVINO; PyTorch where it does not run."""
    try:
        return OpenVinoEngine(network, calls_at_once)
    except Exception as error:  # whatever is missing, a library or an instruction: they share no class
        if not fall_back:
            raise ValueError(f"OpenVINO does not run here: {error}") from error
        _tell_of_fallback(f"{type(error).__name__}: {error}")
        return TorchEngine(network, "cpu")


@lru_cache
def _tell_of_fallback(reason: str) -> None:
    """Once for each process and reason."""
    logger.warning("OpenVINO does not run here; PyTorch on the CPU takes its place. %s", reason)


def joined(parts: Sequence[Outputs]) -> Outputs:
    """One after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: [getattr(part, name) for part in parts] for name in Outputs._fields}
    return Outputs(**{name: np.concatenate(c) for name, c in columns.items() if c[0] is not None})
