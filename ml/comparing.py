"""Every system of the paper's tables on the same images, by the one protocol of `ml.protocol`. No Django.

A method learns from the images of the split "train", is asked with those of the split "test", and searches
those that it learnt from. What is measured of it goes into one JSON file; a method that has one is not run
again. A deep method that is stopped goes on from its last saved epoch.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.baselines import autoregressive, handcrafted, multi_instance
from ml.baselines.networks import AlexNet, OverFeat, ResNet18
from ml.baselines.relevant_blocks import RelevantBlocks
from ml.labelled_folder import LabelledFolder
from ml.metrics import confusion_matrix, macro_scores
from ml.network import NetworkShape, OrganNetwork, device_for, organ_network, trainable_parameters
from ml.preprocess import Preprocessing
from ml.protocol import Described, measure_classification, measure_retrieval, nearest_first
from ml.recipes import RECIPES, Augmentation, Recipe
from ml.training import Progress, Stopped, TrainingData, has_fast_bfloat16, train

SHOWN = 10  # images of a retrieved row
TEST_SHARE = 0.3  # of the groups, where the folder has no split of its own; as the paper
# What AlexNet, ResNet-18 and OverFeat are trained with: their own crops and mirroring, today's optimiser.
BASELINE = Recipe(
    name="baseline",
    epochs=30,
    batch_size=64,
    learning_rate=3e-4,
    weight_decay=0.02,
    augmentation=Augmentation(
        rotation=0, scale=(0.875, 0.875), stretch=0, shift=0.125, gamma=0, any_curve=0, curve=0, contrast=0,
        brightness=0, shading=0, negative=0, noise=0,
    ),
)  # fmt: skip

Watch = Callable[[str, float], None]  # what is being done, and how much of it is (0..1)


@dataclass(frozen=True)
class Task:
    """What every method of one comparison is given."""

    learning: LabelledFolder
    queries: LabelledFolder
    epochs: int | None  # of every deep method; None takes the recipes' own number
    device: str
    folder: Path  # of the states to resume from
    watch: Watch = lambda text, share: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Answer:
    """What one row of the tables says of the images, in their order."""

    name: str
    # by layer, the one that ranks first: (collection, queries)
    features: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    seen: NDArray[np.int64]  # (Q,), the organ seen in each query
    parameters: int | None = None
    history: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Method:
    """One entry of --methods; it may fill several rows, as LBP with four classifiers does."""

    name: str
    source: str
    deviations: str  # from its source, in a sentence each
    run: Callable[[Task], list[Answer]]
    recipe: Recipe | None = None  # of a deep method
    build: Callable[[NetworkShape, Recipe], nn.Module] | None = None


# ------------------------------------------------------------------ deep


def learn_network(task: Task, name: str, recipe: Recipe, build: Callable[..., nn.Module]) -> list[Answer]:
    network, preprocessing, history = trained(task.learning, task, name, recipe, build)
    both = [
        described(network, preprocessing, images, recipe, task) for images in (task.learning, task.queries)
    ]
    (collection, _), (queries, organs) = both
    features = {layer: (collection[layer], queries[layer]) for layer in queries}
    return [Answer(name, features, organs, trainable_parameters(network), tuple(history))]


def trained(
    learning: LabelledFolder,
    task: Task,
    name: str,
    recipe: Recipe,
    build: Callable[..., nn.Module],
) -> tuple[nn.Module, Preprocessing, list[dict[str, Any]]]:
    """Raises Stopped."""
    modalities = len(learning.modality_codes) if recipe.modality_weight else 0

    def tell(progress: Progress) -> None:
        text = f"epoch {progress.epoch}/{progress.epochs}, {progress.images_per_second:.0f} images/s"
        done = (progress.epoch - 1 + progress.step / progress.steps) / progress.epochs
        task.watch(text, done)

    network, preprocessing, history = train(
        training_data(learning),
        training_data(learning.part(np.zeros(len(learning), np.bool_))),  # nothing is chosen by validation
        NetworkShape(len(learning.organ_names), modalities, dropout=recipe.dropout),
        recipe,
        build,
        epochs=task.epochs,
        device=task.device,
        resume_dir=task.folder / name,
        on_progress=tell,
        should_stop=task.should_stop,
    )
    return network, preprocessing, [asdict(epoch) for epoch in history]


def training_data(images: LabelledFolder) -> TrainingData:
    return TrainingData(images.renditions, images.organ, images.modality)


@torch.inference_mode()
def described(
    network: nn.Module, preprocessing: Preprocessing, images: LabelledFolder, recipe: Recipe, task: Task
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Features by layer, float32 (N, D) each, and the organs seen, (N,)."""
    device = device_for(task.device)
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    chunks: dict[str, list[torch.Tensor]] = {}
    organs = []
    with hidden_layers(network) as hidden:
        for start in range(0, len(images), 64):
            x = preprocessing(images.renditions[start : start + 64])
            with torch.autocast(device.type, torch.bfloat16, recipe.bfloat16 and has_fast_bfloat16(device)):
                output = network(x.to(device, memory_format=torch.channels_last))
            for layer, values in {"FC1": output.fc1, **hidden.values}.items():
                chunks.setdefault(layer, []).append(values.float().cpu())
            organs.append(output.organ_logits.argmax(1).cpu())
            task.watch("describing", min(1.0, (start + 64) / len(images)))
    features = {layer: torch.cat(values).numpy() for layer, values in chunks.items()}
    return features, torch.cat(organs).numpy()


class hidden_layers:
    """While it is entered, `values` has the last batch's conv 5, FC2 and FC3 of the paper's network."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.values, self.hooks = network, dict[str, torch.Tensor](), list[Any]()

    def __enter__(self) -> "hidden_layers":
        if isinstance(self.network, OrganNetwork):
            self.hooks = [
                self.network.fc1.register_forward_hook(self.keep_input),
                self.network.fc2.register_forward_hook(partial(self.keep_output, "FC2")),
                self.network.fc3.register_forward_hook(partial(self.keep_output, "FC3")),
            ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def keep_input(self, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.values["conv 5"] = inputs[0]

    def keep_output(self, name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.values[name] = output.relu()


def untrained(task: Task) -> list[Answer]:
    """The paper's network as it starts: what a method adds to this is its own."""
    recipe = RECIPES["paper"]
    torch.manual_seed(0)
    network = organ_network(NetworkShape(len(task.learning.organ_names)), recipe)
    preprocessing = Preprocessing.fitted_to(task.learning.renditions, recipe)
    collection, _ = described(network, preprocessing, task.learning, recipe, task)
    queries, organs = described(network, preprocessing, task.queries, recipe, task)
    features = {layer: (collection[layer], queries[layer]) for layer in queries}
    return [Answer("untrained", features, organs, trainable_parameters(network))]


def learn_patches(task: Task) -> list[Answer]:
    def tell(stage: str, schedule: Any) -> None:
        task.watch(
            f"{stage}, epoch {schedule.step // schedule.steps_per_epoch + 1}/{schedule.epochs}",
            schedule.step / schedule.total_steps,
        )

    network = multi_instance.learn(
        task.learning.renditions,
        task.learning.organ,
        len(task.learning.organ_names),
        task.epochs or BASELINE.epochs,
        task.folder / "multi-instance",
        tell,
        task.should_stop,
    )
    if network is None:
        raise Stopped
    collection, _ = multi_instance.describe(network, task.learning.renditions)
    queries, organs = multi_instance.describe(network, task.queries.renditions)
    features = {"FC1": (collection, queries)}
    return [Answer("multi-instance", features, organs, trainable_parameters(network))]


# ------------------------------------------------------------------ handcrafted


def with_classifiers(describe: Callable[..., NDArray[np.float32]], name: str, task: Task) -> list[Answer]:
    features = describe_both(describe, task)
    answers = []
    for number, (classifier, make) in enumerate(handcrafted.CLASSIFIERS.items()):
        task.watch(f"learning: {classifier}", number / len(handcrafted.CLASSIFIERS))
        if task.should_stop():
            raise Stopped
        seen = make().fit(features[0], task.learning.organ).predict(features[1])
        answers.append(Answer(f"{name} + {classifier}", {"features": features}, seen))
    return answers


def learn_relevant_blocks(task: Task) -> list[Answer]:
    task.watch("learning: autoencoder", 0.0)
    features = describe_both(RelevantBlocks.fitted_to(task.learning.renditions).describe, task)
    task.watch("learning: SVM", 0.0)
    seen = handcrafted.CLASSIFIERS["SVM"]().fit(features[0], task.learning.organ).predict(features[1])
    return [Answer("LBP + SVM + autoencoder", {"features": features}, seen)]


def learn_texture(task: Task) -> list[Answer]:
    features = describe_both(autoregressive.texture, task)
    task.watch("learning: binary tree of SVMs", 0.0)
    seen = autoregressive.BinaryTreeSVM().fit(features[0], task.learning.organ).predict(features[1])
    return [Answer("autoregressive + binary-tree SVM", {"features": features}, seen)]


def describe_both(
    describe: Callable[..., NDArray[np.float32]], task: Task
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of the collection and of the queries. Raises Stopped."""

    def on_image(done: int, total: int) -> None:
        task.watch("describing", done / total)
        if task.should_stop():
            raise Stopped

    def describe_part(images: LabelledFolder) -> NDArray[np.float32]:
        return describe(images.renditions, on_image=on_image)

    return describe_part(task.learning), describe_part(task.queries)


def deep(
    name: str, title: str, source: str, deviations: str, recipe: Recipe, build: Callable[..., nn.Module]
) -> Method:
    run = partial(learn_network, name=name, recipe=recipe, build=build)
    return Method(title, source, deviations, run, recipe, build)


def fixed(network: Callable[[NetworkShape], nn.Module]) -> Callable[[NetworkShape, Recipe], nn.Module]:
    return lambda shape, recipe: network(shape)


MODERN = (
    "AdamW, one cycle and He's initialisation instead of its schedule of 90 epochs; one grey channel; no "
    "averaging over crops"
)
METHODS = {
    "proposed": deep(
        "proposed", "Proposed, the paper's recipe", "Qayyum et al., Neurocomputing 2017",
        "Batches of 32, no momentum, where the paper is silent", RECIPES["paper"], organ_network,
    ),
    "default": deep(
        "default", "Proposed network, our default recipe", "docs/method.md", "", RECIPES["default"],
        organ_network,
    ),
    "untrained": Method(
        "Proposed network, untrained", "Qayyum et al., Neurocomputing 2017", "Nothing is learnt", untrained
    ),
    "alexnet": deep(
        "alexnet", "AlexNet", "Krizhevsky et al., NeurIPS 2012",
        f"One column, no local response normalisation; {MODERN}", BASELINE, fixed(AlexNet),
    ),
    "resnet18": deep("resnet18", "ResNet-18", "He et al., CVPR 2016", MODERN, BASELINE, fixed(ResNet18)),
    "overfeat": deep(
        "overfeat", "OverFeat", "Sermanet et al., ICLR 2014, fast model",
        f"224 pixels in a frame of zeros to its 231; {MODERN}", BASELINE, fixed(OverFeat),
    ),
    "multi-instance": Method(
        "Two-stage multi-instance CNN", "Yan et al., IEEE TMI 2016",
        "Images of 90 pixels a side and 25 patches of 50; AdamW; patches count as telling from half of the "
        "best one's probability on; no thresholds tuned by class; the epochs are those of each stage",
        learn_patches,
    ),
    "lbp": Method(
        "LBP", "Ojala et al., PAMI 2002; Ahonen et al., PAMI 2006",
        "Uniform patterns of 8 neighbours in 4 x 4 cells; the paper gives no sizes",
        partial(with_classifiers, handcrafted.local_binary_patterns, "LBP"),
    ),
    "hog": Method(
        "HoG", "Dalal and Triggs, CVPR 2005", "Images of 128 pixels a side; the paper gives no sizes",
        partial(with_classifiers, handcrafted.oriented_gradients, "HoG"),
    ),
    "autoencoder": Method(
        "LBP + SVM + autoencoder", "Camlica, Tizhoosh and Khalvati, IPTA 2015",
        "The blocks are chosen over all classes together, since a query's class is not known; half are kept",
        learn_relevant_blocks,
    ),
    "autoregressive": Method(
        "Full-range autoregressive + binary-tree SVM",
        "Seetharaman and Sathiamoorthy, J. King Saud Univ. 2016",
        "Grey levels for colours; least squares on a grid for its Bayesian estimate; Euclidean for Manhattan "
        "distance; no relevance feedback",
        learn_texture,
    ),
}  # fmt: skip


# ------------------------------------------------------------------ measuring


def split_in_two(images: LabelledFolder, seed: int = 0) -> tuple[LabelledFolder, LabelledFolder]:
    """The splits "train" and "test"; where the manifest tells neither, 30 % of the groups are drawn to test.

    Raises ValueError when one of the two is empty.
    """
    split = images.split
    if not np.isin(split, ["train", "test"]).any():
        groups = np.unique(images.group)
        drawn = np.random.default_rng(seed).permutation(len(groups))[: round(TEST_SHARE * len(groups))]
        split = np.where(np.isin(images.group, groups[drawn]), "test", "train")
    learning, queries = images.part(split == "train"), images.part(split == "test")
    if not len(learning) or not len(queries):
        raise ValueError("There have to be images to learn from (split train) and to ask with (split test).")
    return learning, queries


def compare(
    task: Task, methods: list[str], results: Path, on_method: Callable[[str, bool], None]
) -> dict[str, list[dict[str, Any]]]:
    """Run what has no result yet; rows by method. `on_method` is told of each, and whether it was done.

    Raises Stopped.
    """
    found = {}
    for key in methods:
        path = results / f"{key}.json"
        done = path.exists()
        on_method(key, done)
        if not done:
            started = time.monotonic()
            answers = METHODS[key].run(task)
            seconds = round(time.monotonic() - started, 1)
            write_json(path, {"rows": [measured(answer, task) | {"seconds": seconds} for answer in answers]})
        found[key] = json.loads(path.read_text())["rows"]
    return found


def claim(out: Path, task: Task) -> Path:
    """The folder of results in `out`, for this comparison alone.

    Raises ValueError when it holds one of other images or epochs, whose figures and half-trained networks
    must not be taken for this one's.
    """
    results = out / "methods"
    results.mkdir(parents=True, exist_ok=True)
    settings = {"images": len(task.learning), "queries": len(task.queries), "epochs": task.epochs}
    path = results / "settings.json"
    if not path.exists():
        write_json(path, settings)
    if (other := json.loads(path.read_text())) != settings:
        raise ValueError(
            f"{out} holds a comparison with {told(other)}, not {told(settings)}; name another folder."
        )
    return results


def told(settings: dict[str, Any]) -> str:
    epochs = settings["epochs"] or "the recipes' own number of"
    return f"{settings['images']} images, {settings['queries']} queries and {epochs} epochs"


def measured(answer: Answer, task: Task) -> dict[str, Any]:
    """Everything the tables and figures need of one row, as JSON."""
    retrieval, examples = {}, {}
    for number, (layer, (collection, asked)) in enumerate(answer.features.items()):
        queries, searched = pair(answer, collection, asked, task)
        if number == 0:
            classification = measure_classification(queries, task.queries.organ_names)
            examples = examples_of(queries, searched, task)
        task.watch(f"measuring {layer}", number / len(answer.features))
        retrieval[layer] = measure_retrieval(queries, searched)
    return {
        "name": answer.name,
        "classification": classification,
        "retrieval": retrieval,
        "examples": examples,
        "parameters": answer.parameters,
        "history": list(answer.history),
    }


def pair(
    answer: Answer, collection: NDArray[np.float32], asked: NDArray[np.float32], task: Task
) -> tuple[Described, Described]:
    def labelled(images: LabelledFolder, features: NDArray[np.float32], seen: NDArray[np.int64]) -> Described:
        unknown = np.full(len(images), -1)
        return Described(features, images.organ, images.modality, images.group, seen, unknown)

    nothing = np.full(len(task.learning), -1)
    return labelled(task.queries, asked, answer.seen), labelled(task.learning, collection, nothing)


def examples_of(queries: Described, collection: Described, task: Task) -> dict[str, Any]:
    """By organ: the position of its first query, and of what it finds in the collection by scope."""
    found = {}
    for organ in np.unique(queries.organ).tolist():
        asked = int(np.flatnonzero(queries.organ == organ)[0])
        (_, order) = next(nearest_first(queries.features[asked : asked + 1], collection.features))
        nearest = order[0][collection.group[order[0]] != queries.group[asked]]
        same = nearest[collection.organ[nearest] == queries.seen_organ[asked]]
        found[task.queries.organ_names[organ]] = {
            "query": asked,
            "seen": task.queries.organ_names[int(queries.seen_organ[asked])],
            "all": nearest[:SHOWN].tolist(),
            "predicted": same[:SHOWN].tolist(),
        }
    return found


def cross_validate(
    task: Task, key: str, folds: int, results: Path, on_fold: Callable[[str, int, int], None]
) -> list[dict[str, float]]:
    """Accuracy and macro F1 of each fold of the training images, whole groups kept together.

    Raises Stopped, KeyError when the method is not one of the proposed network's recipes.
    """
    method = METHODS[key]
    if method.recipe is None or method.build is None:
        raise KeyError(key)
    groups = np.unique(task.learning.group)
    fold_of_group = np.random.default_rng(0).permutation(len(groups)) % folds
    fold_of = fold_of_group[np.searchsorted(groups, task.learning.group)]
    scores = []
    for fold in range(folds):
        name = f"{key}-fold-{fold + 1}-of-{folds}"
        path = results / f"{name}.json"
        if not path.exists():
            on_fold(key, fold + 1, folds)
            held_out, learning = task.learning.part(fold_of == fold), task.learning.part(fold_of != fold)
            network, preprocessing, _ = trained(learning, task, name, method.recipe, method.build)
            _, seen = described(network, preprocessing, held_out, method.recipe, task)
            confusion = confusion_matrix(held_out.organ, seen, len(task.learning.organ_names))
            accuracy = float((held_out.organ == seen).mean())
            write_json(path, {"accuracy": accuracy, **macro_scores(confusion)})
        scores.append(json.loads(path.read_text()))
    return scores


def write_json(path: Path, content: Any) -> None:
    partial_path = path.with_suffix(".partial")
    partial_path.write_text(json.dumps(content))
    partial_path.rename(path)
