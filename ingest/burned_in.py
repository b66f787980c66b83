"""Whether a picture is likely to have text burned into it, and where the text is."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from ingest.windowing import text_of

# Code and sentence, told to the curator.
SAYS_SO = ("burned_in_annotation", "The file says that text is burned into its picture.")
ULTRASOUND = ("ultrasound", "Ultrasound pictures often show the patient's name.")
SECONDARY_CAPTURE = ("secondary_capture", "Captured and scanned pictures often show the patient's name.")
SCREEN = ("screen_capture", "Pictures of a screen often show the patient's name.")
TEXT = ("text_found", "Text was found in the picture.")

ULTRASOUND_CLASSES = ("1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.6")  # with all below them
SECONDARY_CAPTURE_CLASSES = "1.2.840.10008.5.1.4.1.1.7"
OF_A_SCREEN = ("SCREEN SAVE", "SCREENSAVE", "SCREEN CAP", "SCREENSHOT", "DOSE REPORT", "PATIENT PROTOCOL")
DETECTED_PIXELS = 1024  # longest side of what the detector is shown
LARGEST_TEXT = 0.1  # of the picture; the detector takes whole heads for letters
MARGIN = 0.004  # of the picture, around a box


def why_likely(ds: Dataset) -> tuple[str, str] | None:
    """Code and sentence where a DICOM file's header makes burned-in text likely."""
    sop_class = text_of(ds, "SOPClassUID")
    about = " ".join(text_of(ds, keyword) for keyword in ("ImageType", "SeriesDescription")).upper()
    if text_of(ds, "BurnedInAnnotation").upper() == "YES":
        return SAYS_SO
    if text_of(ds, "Modality").upper() == "US" or is_among(sop_class, *ULTRASOUND_CLASSES):
        return ULTRASOUND
    if any(words in about.replace("_", " ") for words in OF_A_SCREEN):
        return SCREEN
    if is_among(sop_class, SECONDARY_CAPTURE_CLASSES) or text_of(ds, "ConversionType"):
        return SECONDARY_CAPTURE
    return None


def is_among(sop_class: str, *roots: str) -> bool:
    return any(sop_class == root or sop_class.startswith(f"{root}.") for root in roots)


def text_boxes(pixels: NDArray[np.uint8]) -> list[list[float]]:
    """Where text is in a grey picture (rows, columns): left, top, right, bottom of each line, 0 to 1.

    The detection network of PaddleOCR, as RapidOCR packs it; what the text says is not read.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((DETECTED_PIXELS, DETECTED_PIXELS))
    shown = np.repeat(np.asarray(picture)[..., None], 3, axis=2)
    found = detector()(shown).boxes
    boxes = []
    for corners in [] if found is None else found:
        (left, top), (right, bottom) = corners.min(0) / picture.size, corners.max(0) / picture.size
        if (right - left) * (bottom - top) < LARGEST_TEXT:
            edges = (left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN)
            boxes.append([round(min(1.0, max(0.0, float(edge))), 4) for edge in edges])
    return boxes


@cache
def detector() -> Any:
    """Loaded once in a process, from the package's own files; a second."""
    from rapidocr import EngineType, RapidOCR

    spec = find_spec("rapidocr")
    assert spec
    assert spec.origin
    options = {
        "Global.use_cls": False,
        "Global.use_rec": False,
        "Global.log_level": "critical",
        "Det.engine_type": EngineType.OPENVINO,
        "Det.model_path": str(Path(spec.origin).parent / "models" / "PP-OCRv6_det_small.onnx"),
        "Det.limit_side_len": 512,
        "EngineConfig.openvino.inference_num_threads": 1,
    }
    return RapidOCR(params=options)


def together(boxes: list[list[float]], others: list[list[float]]) -> list[list[float]]:
    """Those of both, without what is nearly the same: for text that stands in every frame."""
    return boxes + [other for other in others if all(overlap(other, box) < 0.5 for box in boxes)]


def overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common) if common else 0.0
