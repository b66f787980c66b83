"""The training loop on tiny data: it learns, stops, and takes up again where it was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from ml.network import organ_network
from ml.recipes import RECIPES
from ml.schedule import Schedule
from ml.training import Progress, Stopped, TrainingData, _bfloat16_is_faster_here, train
from tests.factories import make_pixels, tiny_shape


def data(number: int, seed: int = 0) -> TrainingData:
    organs = np.arange(number) % 2
    pictures = [make_pixels(seed + n, ("brain", "chest")[n % 2], 256) for n in range(number)]
    return TrainingData(np.stack(pictures), organs.astype(np.int64), organs.astype(np.int64))


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_default_recipe_tells_two_shapes_apart() -> None:
    _network, _preprocessing, history = train(
        data(48), data(16, 1000), tiny_shape(), RECIPES["default"], organ_network, epochs=12, device="cpu"
    )
    assert [result.epoch for result in history] == list(range(1, 13))
    assert history[-1].train_loss < history[0].train_loss
    assert history[-1].val_accuracy is not None
    assert history[-1].val_accuracy >= 0.9


def test_the_paper_recipe_trains_the_organ_head_alone() -> None:
    recipe = RECIPES["paper"]
    network, _preprocessing, history = train(
        data(8), data(4, 1000), tiny_shape(2, 0), recipe, organ_network, epochs=1, device="cpu"
    )
    assert network.modality_head is None
    assert history[0].val_modality_accuracy is None
    assert (recipe.optimiser, recipe.learning_rate, recipe.epochs) == ("sgd", 1e-4, 30)


def test_a_stopped_training_ends_like_one_that_was_not(tmp_path: Path) -> None:
    # Which units are dropped is not kept.
    recipe = replace(RECIPES["default"], dropout=0.0, bfloat16=False, batch_size=4)
    arguments = (data(12), data(4, 1000), tiny_shape(), recipe, organ_network)
    straight, _, history = train(*arguments, epochs=3, device="cpu")

    stop = {"now": False}

    def stop_within_an_epoch(progress: Progress) -> None:
        stop["now"] = (progress.epoch, progress.step) == (2, 1)

    with pytest.raises(Stopped):
        train(
            *arguments,
            epochs=3,
            device="cpu",
            resume_dir=tmp_path,
            on_progress=stop_within_an_epoch,
            should_stop=lambda: stop["now"],
        )
    resumed, _, resumed_history = train(*arguments, epochs=3, device="cpu", resume_dir=tmp_path)
    assert [result.epoch for result in resumed_history] == [1, 2, 3]
    assert len(history) == len(resumed_history)
    assert torch.allclose(weights(straight), weights(resumed), atol=1e-6)


def test_no_batch_is_a_single_image() -> None:
    """Of which there is no variance for a batch norm to learn."""
    recipe = replace(RECIPES["default"], batch_size=8)
    _, _, history = train(data(9), data(2, 1000), tiny_shape(), recipe, organ_network, epochs=1, device="cpu")
    assert np.isfinite(history[0].train_loss)


def test_the_state_of_another_network_is_not_taken_up(tmp_path: Path) -> None:
    arguments = (data(12), data(4, 1000), tiny_shape())
    other = replace(RECIPES["default"], batch_norm=False)
    with pytest.raises(Stopped):
        train(*arguments, other, organ_network, device="cpu", resume_dir=tmp_path, should_stop=lambda: True)
    recipe = RECIPES["default"]
    _, _, history = train(*arguments, recipe, organ_network, epochs=2, device="cpu", resume_dir=tmp_path)
    assert [result.epoch for result in history] == [1, 2]


def test_a_time_limit_shortens_the_schedule() -> None:
    seen: list[Progress] = []
    train(
        data(64),
        data(4, 1000),
        tiny_shape(),
        RECIPES["default"],
        organ_network,
        epochs=10_000,
        max_seconds=2,
        device="cpu",
        on_progress=seen.append,
    )
    assert 1 <= seen[-1].epoch < 10_000


def test_the_learning_rate_of_the_recipes() -> None:
    schedule = Schedule(total_steps=1000, steps_per_epoch=100)
    rates = []
    for schedule.step in range(0, 1000, 50):
        rates.append(schedule.learning_rate(RECIPES["default"]))
        assert schedule.learning_rate(RECIPES["paper"]) == 1e-4
    assert rates[0] < max(rates) <= RECIPES["default"].learning_rate * 1.01
    assert rates[-1] < 0.05 * max(rates)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_told_before_anything_is_trained() -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        train(data(4), data(2), tiny_shape(), RECIPES["default"], organ_network, device="cuda")


def test_two_processes_learn_what_one_does() -> None:
    """Without what each does for itself: dropout, augmentation, on a CPU the norms of its share."""
    recipe = replace(
        RECIPES["default"],
        dropout=0.0,
        augmentation=None,
        batch_norm=False,
        batch_size=4,
        bfloat16=False,
    )
    arguments = (data(20), data(4, 1000), tiny_shape(), recipe, organ_network)
    alone, _, _ = train(*arguments, epochs=3, device="cpu")
    together, _, history = train(*arguments, epochs=3, device="cpu", processes=2)
    assert [result.epoch for result in history] == [1, 2, 3]
    torch.testing.assert_close(weights(together), weights(alone), atol=1e-4, rtol=1e-3)


def test_processes_stop_and_take_up_again_together(tmp_path: Path) -> None:
    arguments = (data(12), data(4, 1000), tiny_shape(), RECIPES["default"], organ_network)
    stop = {"now": False}

    def stop_after_first(progress: Progress) -> None:
        stop["now"] = progress.epoch == 1

    with pytest.raises(Stopped):
        train(
            *arguments,
            epochs=3,
            device="cpu",
            processes=3,
            resume_dir=tmp_path,
            on_progress=stop_after_first,
            should_stop=lambda: stop["now"],
        )
    _, _, history = train(*arguments, epochs=3, device="cpu", processes=2, resume_dir=tmp_path)
    assert [result.epoch for result in history] == [1, 2, 3]


def test_a_follower_that_dies_ends_the_training() -> None:
    def kill_followers(progress: Progress) -> None:
        for child in psutil.Process().children():
            if child.status() != psutil.STATUS_ZOMBIE and "ml.team" in child.cmdline():
                child.kill()
                child.wait(10)

    with pytest.raises((ChildProcessError, RuntimeError)):
        train(
            data(12),
            data(4, 1000),
            tiny_shape(),
            replace(RECIPES["default"], batch_size=4),
            organ_network,
            epochs=3,
            device="cpu",
            processes=2,
            on_progress=kill_followers,
        )
    assert not torch.distributed.is_initialized()


def test_which_number_format_is_faster_is_found_out_while_a_network_is_asked_too() -> None:
    _bfloat16_is_faster_here.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert _bfloat16_is_faster_here() in (True, False)
    assert torch.equal(torch.rand(1), expected)  # the trial draws no numbers of the caller's
