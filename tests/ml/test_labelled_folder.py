"""A folder with a manifest as arrays."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.labelled_folder import read_labelled_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, grey in (("a.png", 10), ("b.png", 200), ("c.png", 60)):
        Image.fromarray(np.full((40, 30), grey, np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (tmp_path / "manifest.csv").write_text(
        "path,organ,modality,source,group_id,split\n"
        "a.png,knee,MR,here,p1,train\nbroken.png,knee,MR,here,p1,train\n"
        "b.png,chest,,there,,test\nc.png,knee,DX,,p3,\nmissing.png,chest,,,,\n"
    )
    return tmp_path


def test_every_column_becomes_an_array(folder: Path) -> None:
    read = read_labelled_folder(folder)
    assert (read.organ_names, read.modality_codes) == (["chest", "knee"], ["DX", "MR"])
    assert read.renditions.shape == (3, 256, 256)
    assert read.renditions[:, 0, 0].tolist() == [10, 200, 60]
    assert read.organ.tolist() == [1, 0, 1]
    assert read.modality.tolist() == [1, -1, 0]
    assert read.group.tolist() == ["p1", "b.png", "p3"]
    assert read.source.tolist() == ["here", "there", ""]
    assert read.split.tolist() == ["train", "test", ""]


def test_what_cannot_be_read_is_left_out_with_its_reason(folder: Path) -> None:
    skipped = read_labelled_folder(folder).skipped
    assert [sentence.split(":")[0] for sentence in skipped] == ["broken.png", "missing.png"]


def test_labels_count_along_names_that_are_given(folder: Path) -> None:
    read = read_labelled_folder(folder, ["knee", "hand"], ["US"])
    assert read.organ_names == ["knee", "hand", "chest"]
    assert read.organ.tolist() == [0, 2, 0]
    assert read.modality_codes == ["US", "DX", "MR"]


def test_a_part_keeps_the_meaning_of_the_labels(folder: Path) -> None:
    read = read_labelled_folder(folder)
    part = read.part(read.source == "there")
    assert len(part) == 1
    assert part.organ_names[part.organ[0]] == "chest"


def test_a_manifest_without_organs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,label\na.png,knee\n")
    with pytest.raises(ValueError, match="path and organ"):
        read_labelled_folder(tmp_path)
