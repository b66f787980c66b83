"""How the network is trained: the paper's way, and ours."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    paper_initialisation: bool = False
    optimiser: str = "adamw"
    weight_decay: float = 0.0
    one_cycle: bool = True  # warm-up, then cosine to zero; False keeps the learning rate constant
    augmentation: bool = True
    modality_head: bool = True
    balanced: bool = True  # every organ is drawn equally often
    label_smoothing: float = 0.0
    bfloat16: bool = True  # where the processor has it


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
        augmentation=False,
        modality_head=False,
        balanced=False,
        bfloat16=False,
    ),
    "default": Recipe(
        name="default", epochs=30, batch_size=32, learning_rate=3e-4, weight_decay=0.02, label_smoothing=0.05
    ),
}
