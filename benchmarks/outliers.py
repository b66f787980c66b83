"""How well pictures that are no medical images are told from images like those learnt from.

    python -m benchmarks.outliers --checkpoint DIR --data ../shared/data --outliers DIR [--other DIR]

Two scores, each with the threshold of the checkpoint, which together accept 95 % of images held out from
learning: the energy of the organ's logits, and the distance of FC1 to the nearest image learnt from. Asked
are the test split of --data, every picture of --outliers, and, with --other, images of known organs from
unknown hospitals, which ought to be accepted too.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ingest.reading import RejectedFile
from ml.calibration import area_under_roc, energy, nearest_distances
from ml.checkpoint import load_checkpoint
from ml.engines import Outputs, engine_for
from ml.inference import see
from ml.labelled_folder import read_labelled_folder, rendition_of

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, needed in (("checkpoint", True), ("data", True), ("outliers", True), ("other", False)):
        parser.add_argument(f"--{name}", type=Path, required=needed)
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    engine = engine_for(checkpoint.network, "auto")

    def seen(renditions: NDArray[np.uint8]) -> Outputs:
        return see(engine, checkpoint.preprocessing, renditions)

    folder = read_labelled_folder(options.data)
    learnt = seen(folder.renditions[folder.split == "train"])
    asked = {"test split": seen(folder.renditions[folder.split == "test"])}
    if options.other:
        asked["other hospitals"] = seen(read_labelled_folder(options.other).renditions)
    asked["no medical images"] = seen(pictures_in(options.outliers))
    calibration = checkpoint.calibration
    energies = {name: energy(outputs.organ_logits) for name, outputs in asked.items()}
    distances = {name: nearest_distances(outputs.fc1, learnt.fc1) for name, outputs in asked.items()}
    table = Table("score", "images", "number", "accepted", "area under ROC against the test split")
    for score, values in (("energy", energies), ("distance", distances)):
        threshold = getattr(calibration, f"{score}_threshold")
        for name, found in values.items():
            accepted = "-" if threshold is None else f"{(found <= threshold).mean():.1%}"
            area = f"{area_under_roc(values['test split'], found):.3f}"
            table.add_row(score, name, str(len(found)), accepted, area)
    for name in asked:
        pairs = zip(energies[name].tolist(), distances[name].tolist(), strict=True)
        unlike = [bool(calibration.is_unlike(*pair)) for pair in pairs]
        table.add_row("both, as in the product", name, str(len(unlike)), f"{1 - np.mean(unlike):.1%}", "")
    Console(width=110).print(table)


def pictures_in(folder: Path) -> NDArray[np.uint8]:
    """uint8 (N, 256, 256) of every picture under the folder that can be read."""
    renditions = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURES:
            try:
                renditions.append(rendition_of(path))
            except RejectedFile as error:
                print(f"{path.name}: {error}")
    return np.stack(renditions)


if __name__ == "__main__":
    main()
