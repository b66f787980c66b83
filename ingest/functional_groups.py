"""The functional groups of enhanced objects (PS3.3 C.7.6.16): what is said of all frames, and of each.

Of an attribute the frame's own group says the last word, then the shared group, then the data set itself.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

# Where enhanced objects keep what the older ones keep in the data set itself, and under which keyword.
PLACES = {
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
    "WindowCenter": ("FrameVOILUTSequence", "WindowCenter"),
    "WindowWidth": ("FrameVOILUTSequence", "WindowWidth"),
    "RescaleType": ("PixelValueTransformationSequence", "RescaleType"),
    "Laterality": ("FrameAnatomySequence", "FrameLaterality"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "ConvolutionKernel": ("CTReconstructionSequence", "ConvolutionKernel"),
    "KVP": ("CTXRayDetailsSequence", "KVP"),
}
FRAME_TYPES = (
    *("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence"),
    *("XAXRFFrameCharacteristicsSequence", "XRay3DFrameTypeSequence", "ParametricMapFrameTypeSequence"),
    *("WholeSlideMicroscopyImageFrameTypeSequence", "USImageDescriptionSequence"),
)


def macro_items(ds: Dataset, index: int, name: str) -> Iterator[Dataset]:
    """The items of the macro `name` for the frame at `index`, from 0: its own first, then the shared one."""
    frames, shared = ds.get("PerFrameFunctionalGroupsSequence"), ds.get("SharedFunctionalGroupsSequence")
    for group in [*(frames or [])[index : index + 1], *(shared or [])[:1]]:
        yield from (group.get(name) or [])[:1]


def is_enhanced(ds: Dataset) -> bool:
    return bool(ds.get("SharedFunctionalGroupsSequence") or ds.get("PerFrameFunctionalGroupsSequence"))


def frame_value(ds: Dataset, index: int, keyword: str) -> Any:
    """What the functional groups say of an attribute, by the keyword it has outside of them, or None."""
    places = [(name, "FrameType") for name in FRAME_TYPES] if keyword == "ImageType" else []
    if keyword in PLACES:
        places.append(PLACES[keyword])
    for name, inner in places:
        for item in macro_items(ds, index, name):
            if item.get(inner) not in (None, "", []):
                return item[inner].value
    return None


def anatomic_region(ds: Dataset, index: int) -> str:
    """The meaning of the code of AnatomicRegionSequence: of the frame's anatomy, else of the object."""
    for source in (*macro_items(ds, index, "FrameAnatomySequence"), ds):
        for code in (source.get("AnatomicRegionSequence") or [])[:1]:
            if meaning := str(code.get("CodeMeaning") or "").strip():
                return meaning
    return ""


def frames_in_space(ds: Dataset, number_of_frames: int) -> list[int]:
    """Indexes of the frames, from 0, along the normal of their planes (PS3.3 C.7.6.2.1.1).

    Where a frame has no position of its own they are as they are stored.
    """
    places = [place_along_normal(ds, index) for index in range(number_of_frames)] if is_enhanced(ds) else []
    if not places or None in places:
        return list(range(number_of_frames))
    return sorted(range(number_of_frames), key=lambda index: (places[index], index))


def place_along_normal(ds: Dataset, index: int) -> float | None:
    """Millimetres along the normal of the frame's plane; of the patient or, for ultrasound, of the volume."""
    for of_what, suffix in (("Patient", ""), ("Volume", "Volume")):
        positions = list(macro_items(ds, index, f"PlanePosition{suffix}Sequence"))
        orientations = list(macro_items(ds, index, f"PlaneOrientation{suffix}Sequence"))
        if positions and orientations:
            try:
                position = np.array(positions[0].get(f"ImagePosition{of_what}"), float).reshape(3)
                row, column = np.array(orientations[0].get(f"ImageOrientation{of_what}"), float).reshape(2, 3)
            except (TypeError, ValueError):
                return None
            return round(float(np.dot(np.cross(row, column), position)), 3)
    return None
