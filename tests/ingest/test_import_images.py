"""manage.py import_images: folders, manifests, archives, and an account of every file."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from ingest.dicom_parsing import looks_like_dicomdir
from ingest.models import Image, UploadBatch
from tests.factories import dicom_bytes, dicomdir_bytes, png_bytes, tar_bytes, zip_bytes

pytestmark = pytest.mark.django_db

MANIFEST = """path,organ,modality,group_id,split,note
x/a.png,heart,MR,p1,test,?
x/b.png,liver,CT,p2,train,
gone.png,liver,,,
"""


def import_images(path: Path, **options: Any) -> dict[str, Any]:
    out = StringIO()
    options = {"new_organs": True, **options}
    call_command("import_images", str(path), dataset="ward", json=True, stdout=out, **options)
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def make(files: dict[str, bytes]) -> Path:
        folder = tmp_path / "in"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder

    return make


@pytest.fixture
def write_zip(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def make(files: dict[str, bytes]) -> Path:
        path = tmp_path / "in.zip"
        path.write_bytes(zip_bytes(files))
        return path

    return make


def labels() -> dict[str, tuple[str | None, str | None, str]]:
    images = Image.objects.select_related("organ")
    return {i.source_path: (i.organ.name if i.organ else None, i.modality_id, i.split) for i in images}


def test_folder_with_good_and_bad_files(write: Any) -> None:
    folder = write(
        {
            "Heart/a.png": png_bytes(seed=1),
            "left kidney/b.dcm": dicom_bytes(seed=2),
            "left kidney/again.dcm": dicom_bytes(seed=2),
            "README.md": b"# Notes",
            "Heart/.hidden": b"x",
            "Heart/Thumbs.db": b"x",
            "empty.png": b"",
        }
    )
    report = import_images(folder)
    assert report.pop("seconds") > 0
    assert report.pop("files_per_second") > 0
    assert [row["path"] for row in report.pop("rejections")] == ["README.md", "empty.png"]
    assert report == {
        "dataset": "ward",
        "batch": UploadBatch.objects.get().pk,
        "files": 5,
        "imported": 2,
        "images": 2,
        "duplicates": 1,
        "left_out": 0,
        "quarantined": 0,
        "rejected": {"not_an_image": 1, "empty_file": 1},
    }
    assert labels() == {
        "Heart/a.png": ("heart", None, ""),
        "left kidney/again.dcm": ("left-kidney", "CT", ""),
    }


def test_folder_a_second_time_makes_nothing(write: Any) -> None:
    folder = write({"heart/a.png": png_bytes(seed=1), "heart/b.png": png_bytes(seed=2)})
    import_images(folder)
    report = import_images(folder)
    assert (report["imported"], report["duplicates"], Image.objects.count()) == (0, 2, 2)


def test_manifest_labels_its_files(write: Any) -> None:
    folder = write(
        {
            "manifest.csv": MANIFEST.encode(),
            "x/a.png": png_bytes(seed=1),
            "x/b.png": png_bytes(seed=2),
            "y/unnamed.png": png_bytes(seed=3),
        }
    )
    report = import_images(folder)
    assert labels() == {
        "x/a.png": ("heart", "MR", "test"),
        "x/b.png": ("liver", "CT", "train"),
        "y/unnamed.png": (None, None, ""),
    }
    assert report["rejections"] == [
        {
            "path": "gone.png",
            "code": "missing_file",
            "reason": "The manifest names this file, but it is not there.",
        }
    ]
    assert len(set(Image.objects.values_list("group_key", flat=True))) == 3


def test_labels_option_overrules_the_manifest(write: Any) -> None:
    folder = write({"manifest.csv": MANIFEST.encode(), "x/a.png": png_bytes(seed=1)})
    report = import_images(folder, labels="folder")
    assert labels() == {"x/a.png": ("x", None, "")}
    assert report["rejected"] == {"not_an_image": 1}


def test_dicom_files_in_one_folder_are_labelled_by_their_tags(write: Any) -> None:
    import_images(write({"a.dcm": dicom_bytes(BodyPartExamined="CHEST")}))
    assert labels() == {"a.dcm": ("chest", "CT", "")}


def test_single_file(write: Any) -> None:
    report = import_images(write({"a.dcm": dicom_bytes()}) / "a.dcm")
    assert (report["files"], report["images"]) == (1, 1)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"a,b\na.png,heart\n",
            "The manifest lacks the column path and the column organ. Its columns are: a, b.",
        ),
        (
            b"path,modality\na.png,CT\n",
            "The manifest lacks the column organ. Its columns are: path, modality.",
        ),
        (b"", "The manifest has no rows."),
        (b"\xff\xfe\x00", "The manifest is not a CSV file in UTF-8."),
    ],
)
def test_unusable_manifest_is_told_and_nothing_comes_in(write: Any, content: bytes, sentence: str) -> None:
    folder = write({"manifest.csv": content, "a.png": png_bytes()})
    with pytest.raises(CommandError, match=sentence):
        import_images(folder)
    assert not UploadBatch.objects.exists()


def test_manifest_asked_for_but_absent(write: Any) -> None:
    with pytest.raises(CommandError, match=r"There is no manifest\.csv in the folder\."):
        import_images(write({"a.png": png_bytes()}), labels="manifest")


def test_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="There is no file or folder"):
        import_images(tmp_path / "nowhere")


def test_table_tells_counts_and_reasons(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = StringIO()
    folder = write({"heart/a.png": png_bytes(), "heart/a.txt": b"no image"})
    call_command("import_images", str(folder), dataset="ward", stdout=out)
    assert "imported (1 images)" in out.getvalue()
    assert "rejected: This is not a DICOM file" in " ".join(out.getvalue().split())


def test_zip_members_become_files(write_zip: Any) -> None:
    path = write_zip(
        {
            "set/heart/a.png": png_bytes(seed=1),
            "set/liver/b.png": png_bytes(seed=2),
            "set/../../evil.png": png_bytes(seed=3),
            "__MACOSX/set/._a.png": b"x",
            "set/.DS_Store": b"x",
            "set/notes.txt": b"x",
        }
    )
    report = import_images(path)
    assert (report["files"], report["images"], report["rejected"]) == (4, 3, {"not_an_image": 1})
    assert labels() == {
        "set/heart/a.png": ("heart", None, ""),
        "set/liver/b.png": ("liver", None, ""),
        "set/evil.png": ("set", None, ""),
    }


@pytest.mark.parametrize("top", ["", "set/"])
def test_zip_with_a_manifest(write_zip: Any, top: str) -> None:
    import_images(write_zip({f"{top}manifest.csv": MANIFEST.encode(), f"{top}x/a.png": png_bytes(seed=1)}))
    assert labels() == {f"{top}x/a.png": ("heart", "MR", "test")}


def test_zip_without_the_manifest_it_should_have(write_zip: Any) -> None:
    report = import_images(write_zip({"x/a.png": png_bytes()}), labels="manifest")
    assert report["rejected"] == {"bad_manifest": 1}


def test_zip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "in.zip").write_bytes(b"PK no")
    report = import_images(tmp_path / "in.zip")
    assert report["rejections"] == [
        {
            "path": "in.zip",
            "code": "bad_archive",
            "reason": "This is not a zip or tar archive, or it is damaged or cut off.",
        }
    ]


def test_zip_bomb_is_refused_whole(write_zip: Any, settings: Any, media_root: Path) -> None:
    settings.MAX_UPLOAD_BYTES = 2 * 2**20
    path = write_zip({"heart/a.png": png_bytes(), **{f"heart/{i}": bytes(2**20) for i in range(4)}})
    assert path.stat().st_size < 20_000
    report = import_images(path)
    assert (report["files"], report["rejected"]) == (1, {"archive_too_large": 1})
    assert not media_root.exists()


def test_zip_whose_header_lies_about_sizes(tmp_path: Path, settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 2**20
    content = zip_bytes({"heart/big": bytes(4 * 2**20)})
    honest, small = (4 * 2**20).to_bytes(4, "little"), (10).to_bytes(4, "little")
    assert content.count(honest) == 2
    (tmp_path / "in.zip").write_bytes(content.replace(honest, small))
    report = import_images(tmp_path / "in.zip")
    assert report["imported"] == 0
    assert sum(report["rejected"].values()) == 1


@pytest.mark.parametrize("name", ["in.tgz", "sent-by-post"])
def test_tar_as_path_is_labelled_by_its_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(tar_bytes({"heart/a.png": png_bytes(seed=1)}, "gz"))
    report = import_images(tmp_path / name)
    assert (report["files"], report["images"]) == (1, 1)
    assert labels() == {"heart/a.png": ("heart", None, "")}


def test_tar_as_path_with_a_manifest(tmp_path: Path) -> None:
    members = {"set/manifest.csv": MANIFEST.encode(), "set/x/a.png": png_bytes(seed=1)}
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    report = import_images(tmp_path / "in.tar")
    assert labels() == {"set/x/a.png": ("heart", "MR", "test")}
    assert [row["path"] for row in report["rejections"]] == ["set/x/b.png", "set/gone.png"]


def test_archives_found_in_a_folder(write: Any) -> None:
    inner = tar_bytes({"file.dcm": dicom_bytes(seed=1), "liver/b.dcm": dicom_bytes(seed=2)})
    folder = write(
        {
            "outer.zip": zip_bytes({"inner.tar": inner, "notes.txt": b"x"}),
            "kidney/study.tgz": tar_bytes({"a.png": png_bytes(seed=3)}, "gz"),
            "heart/c.png": png_bytes(seed=4),
        }
    )
    report = import_images(folder)
    assert (report["files"], report["images"], report["rejected"]) == (5, 4, {"not_an_image": 1})
    assert labels() == {
        "outer.zip/inner.tar/file.dcm": (None, "CT", ""),
        "outer.zip/inner.tar/liver/b.dcm": ("liver", "CT", ""),
        "kidney/study.tgz/a.png": ("kidney", None, ""),
        "heart/c.png": ("heart", None, ""),
    }


def test_manifest_beside_archives_labels_their_members(write: Any) -> None:
    manifest = "path,organ\na.zip/x/1.png,heart\na.zip/x/gone.png,heart\nb.tar,liver\nc.zip/1.png,chest\n"
    folder = write(
        {
            "manifest.csv": manifest.encode(),
            "a.zip": zip_bytes({"x/1.png": png_bytes(seed=1)}),
            "b.tar": tar_bytes({"2.png": png_bytes(seed=2)}),
            "c.zip": b"PK no",
        }
    )
    report = import_images(folder)
    assert labels() == {"a.zip/x/1.png": ("heart", None, ""), "b.tar/2.png": ("liver", None, "")}
    assert sorted((row["path"], row["code"]) for row in report["rejections"]) == [
        ("a.zip/x/gone.png", "missing_file"),
        ("c.zip", "bad_archive"),
    ]


def test_dicomdir_of_a_medium_is_left_out(write: Any) -> None:
    folder = write({"DICOMDIR": dicomdir_bytes(), "DICOM/IM0001": dicom_bytes(seed=1)})
    report = import_images(folder, labels="dicom")
    assert (report["files"], report["imported"], report["rejected"]) == (1, 1, {})


@pytest.mark.shared_data
def test_folder_of_real_dicom_files_is_accounted_for(shared_data: Path) -> None:
    folder = shared_data / "dicom"
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    files = [path for path in files if not looks_like_dicomdir(path.read_bytes())]
    report = import_images(folder, labels="dicom")
    assert report["files"] == len(files)
    told = ("imported", "duplicates", "quarantined")
    assert sum(report[name] for name in told) + sum(report["rejected"].values()) == len(files)
    assert report["left_out"] == 0
    assert "internal_error" not in report["rejected"]
    assert all(row["reason"].endswith(".") for row in report["rejections"])
    assert report["imported"] > len(files) / 2
