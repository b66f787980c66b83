"""How the network is trained: the paper's way, and ours."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Augmentation:
    """How far `ml.augmentation` may change an image; 0 leaves a change out."""

    rotation: float = 15.0  # degrees, either way
    scale: tuple[float, float] = (0.7, 1.15)  # side of the view; 1 shows the whole frame
    stretch: float = 0.2  # width by height, up to 1 + this
    shift: float = 0.1  # of half a side, either way
    gamma: float = 0.6  # exponent up to 1 + this
    any_curve: float = 0.25  # share of images whose grey values go through any random curve
    curve: float = 0.3  # share of images whose grey values go through a random rising curve
    contrast: float = 0.4
    brightness: float = 0.12
    shading: float = 0.2
    negative: float = 0.07  # share of images inverted, as MONOCHROME1 taken for MONOCHROME2 would be
    noise: float = 0.06  # largest standard deviation


@dataclass(frozen=True)
class Recipe:
    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    paper_initialisation: bool = False
    batch_norm: bool = False  # before every ReLU while it learns, see `ml.network.fold_batch_norms`
    optimiser: str = "adamw"  # or sgd
    weight_decay: float = 0.0
    dropout: float = 0.5
    one_cycle: bool = True  # warm-up, then cosine to zero; False keeps the learning rate constant
    augmentation: Augmentation | None = None
    framed: bool = False  # these four: see `ml.preprocess.Preprocessing`
    per_image: bool = False
    resolution: int | None = None
    equalisation: float = 0.0
    modality_weight: float = 0.0  # of the modality head's loss; 0 leaves the head out
    fc1_weight: float = 0.0  # of the loss that makes FC1 rank, see `ml.objective`
    fc1_margin: float = 0.0  # by which FC1's cosine with its own organ has to exceed the others
    unit_fc1: bool = False  # FC1 is compared by direction
    balanced: bool = True  # every organ is drawn equally often
    bfloat16: bool = True  # where the processor is fast at it

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


RECIPES = {
    # Where the paper is silent: batches of 32, no augmentation, no momentum.
    "paper": Recipe(
        name="paper",
        epochs=30,
        batch_size=32,
        learning_rate=1e-4,
        paper_initialisation=True,
        optimiser="sgd",
        one_cycle=False,
        balanced=False,
        bfloat16=False,
    ),
    "default": Recipe(
        name="default",
        epochs=30,
        batch_size=64,
        learning_rate=1e-3,
        batch_norm=True,
        weight_decay=0.02,
        dropout=0.3,
        augmentation=Augmentation(),
        framed=True,
        per_image=True,
        resolution=96,
        equalisation=0.5,
        modality_weight=0.5,
        fc1_weight=2.0,
        fc1_margin=0.35,
        unit_fc1=True,
    ),
}
