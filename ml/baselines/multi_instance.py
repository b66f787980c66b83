"""The two-stage multi-instance CNN on local patches.

Yan et al., "Multi-instance deep learning: discover discriminative local anatomies for bodypart recognition",
IEEE TMI 2016. Stage one learns from whole images that their organ shows in at least one patch. The patches by
which it then knows the organ, and those that tell it least, teach stage two, with a class for the latter.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.schedule import EpochResult, Schedule, load_state, save_state

SEEN = 90  # pixels a side that an image is shrunk to
PATCH, STRIDE = 50, 10  # pixels: 25 patches an image
LIKELY = 0.5  # of its best patch's probability that another patch of an image needs to be learnt from
PER_IMAGE = 4  # patches that an image gives at most, of either kind
BATCH = 32  # images; in stage two BATCH * PER_IMAGE patches
LEARNING_RATE = 1e-3

Watch = Callable[[str, Schedule], None]


class PatchNetwork(nn.Module):
    """Two convolutions and a fully connected layer of 600, which describes the patch."""

    def __init__(self, organs: int) -> None:
        super().__init__()
        self.organs = organs
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 9), nn.Conv2d(20, 40, 6)
        self.fc1, self.head = nn.Linear(40 * 8 * 8, 600), nn.Linear(600, organs + 1)  # the last: no organ

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """float32 (P, 600) and logits (P, organs + 1) from (P, 1, 50, 50)."""
        x = F.max_pool2d(self.conv1(patches).relu(), 2)  # (P, 20, 21, 21)
        x = F.max_pool2d(self.conv2(x).relu(), 2)  # (P, 40, 8, 8)
        features = self.fc1(x.flatten(1)).relu()
        return features, self.head(features)


def patches_of(renditions: NDArray[np.uint8]) -> Tensor:
    """float32 (N * 25, 1, 50, 50), an image's patches in a row, from uint8 (N, 256, 256)."""
    grey = torch.from_numpy(np.ascontiguousarray(renditions)).unsqueeze(1).float() / 255
    grey = (F.interpolate(grey, size=(SEEN, SEEN), mode="area") - 0.3) / 0.27
    parts = F.unfold(grey, PATCH, stride=STRIDE)  # (N, 2500, 25)
    return parts.transpose(1, 2).reshape(-1, 1, PATCH, PATCH)


def learn(
    renditions: NDArray[np.uint8],
    organs: NDArray[np.int64],
    number_of_organs: int,
    epochs: int,
    folder: Path,
    watch: Watch = lambda stage, schedule: None,
    should_stop: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> PatchNetwork | None:
    """Both stages, `epochs` each; their states to resume from are in `folder`. None where it was stopped."""
    torch.manual_seed(seed)
    network = PatchNetwork(number_of_organs)

    def image_batch(chosen: NDArray[np.intp]) -> tuple[Tensor, int]:
        logits = network(patches_of(renditions[chosen]))[1][:, :number_of_organs]
        likely = logits.log_softmax(1).view(len(chosen), -1, number_of_organs).amax(1)  # of the best patch
        truth = torch.from_numpy(organs[chosen])
        return F.nll_loss(likely, truth), int((likely.argmax(1) == truth).sum())

    stage = Stage("discovering patches", network, len(organs), BATCH, epochs, folder / "stage-1", seed)
    if not stage.run(image_batch, watch, should_stop):
        return None
    patches, labels = discovered(network, renditions, organs)

    def patch_batch(chosen: NDArray[np.intp]) -> tuple[Tensor, int]:
        logits, truth = network(patches[chosen])[1], labels[chosen]
        return F.cross_entropy(logits, truth), int((logits.argmax(1) == truth).sum())

    size = BATCH * PER_IMAGE
    stage = Stage("learning patches", network, len(labels), size, epochs, folder / "stage-2", seed)
    return network.eval() if stage.run(patch_batch, watch, should_stop) else None


class Stage:
    """Epochs of batches of row numbers, resumable at the end of each."""

    def __init__(
        self, name: str, network: nn.Module, rows: int, size: int, epochs: int, folder: Path, seed: int
    ) -> None:
        self.name, self.network, self.rows, self.size, self.folder = name, network, rows, size, folder
        self.seed = seed
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
        steps = -(-rows // size)
        self.schedule = Schedule(epochs * steps, steps)

    def batches(self) -> Iterator[NDArray[np.intp]]:
        rng = np.random.default_rng([self.seed, self.schedule.step // self.schedule.steps_per_epoch])
        order = rng.permutation(self.rows)
        for start in range(0, self.rows, self.size):
            yield order[start : start + self.size]

    def run(
        self,
        loss_of: Callable[[NDArray[np.intp]], tuple[Tensor, int]],
        watch: Watch,
        should_stop: Callable[[], bool],
    ) -> bool:
        """False where it was stopped."""
        schedule = self.schedule
        load_state(self.folder, self.network, self.optimiser, schedule)
        while schedule.step < schedule.total_steps:
            total, right = 0.0, 0
            for chosen in self.batches():
                for group in self.optimiser.param_groups:
                    group["lr"] = LEARNING_RATE * (1 - schedule.step / schedule.total_steps)
                loss, correct = loss_of(chosen)
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimiser.step()
                schedule.step += 1
                total, right = total + float(loss.detach()) * len(chosen), right + correct
                watch(self.name, schedule)
                if should_stop():
                    return False
            epoch = schedule.step // schedule.steps_per_epoch
            schedule.history.append(EpochResult(epoch, total / self.rows, right / self.rows))
            save_state(self.folder, self.network, self.optimiser, schedule)
        return True


@torch.inference_mode()
def discovered(
    network: PatchNetwork, renditions: NDArray[np.uint8], organs: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Patches (P, 1, 50, 50) and their labels (P,): the image's organ, or one past the last for none."""
    patches, labels = [], []
    for start in range(0, len(renditions), BATCH):
        parts = patches_of(renditions[start : start + BATCH])
        probabilities = network(parts)[1][:, : network.organs].softmax(1)
        truth = torch.from_numpy(organs[start : start + BATCH])
        per_image = len(parts) // len(truth)
        of_truth = probabilities.view(len(truth), per_image, -1).gather(
            2, truth.view(-1, 1, 1).expand(-1, per_image, 1)
        )
        of_truth = of_truth.squeeze(2)  # (N, 25)
        best, best_place = of_truth.topk(PER_IMAGE, 1)
        telling = best >= LIKELY * best[:, :1]
        worst, worst_place = of_truth.topk(PER_IMAGE, 1, largest=False)
        empty = worst < LIKELY * best[:, :1]
        first = torch.arange(len(truth))[:, None] * per_image
        patches += [parts[(first + best_place)[telling]], parts[(first + worst_place)[empty]]]
        labels += [
            truth[:, None].expand(-1, PER_IMAGE)[telling],
            torch.full((int(empty.sum()),), network.organs),
        ]
    return torch.cat(patches), torch.cat(labels)


@torch.inference_mode()
def describe(
    network: PatchNetwork, renditions: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """FC1 of each image's most telling patch, float32 (N, 600), and the organ that it shows, (N,)."""
    features, organs = [], []
    for start in range(0, len(renditions), BATCH):
        parts = patches_of(renditions[start : start + BATCH])
        fc1, logits = network(parts)
        images = len(renditions[start : start + BATCH])
        likely = logits.softmax(1)[:, : network.organs].view(images, -1, network.organs)
        place = likely.amax(2).argmax(1)  # (N,), of the patch
        rows = torch.arange(images)
        features.append(fc1.view(images, -1, fc1.shape[1])[rows, place])
        organs.append(likely[rows, place].argmax(1))
    return torch.cat(features).numpy(), torch.cat(organs).numpy()
