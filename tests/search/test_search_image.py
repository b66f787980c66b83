"""`manage.py search_image`, on a real file and a real, tiny network."""

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command

from ingest.models import Image
from ml.models import ModelVersion
from search.models import Query
from tests import factories


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "slice.dcm"
    path.write_bytes(factories.dicom_bytes())
    return path


def run(file: Path, *arguments: str) -> str:
    out = StringIO()
    call_command("search_image", str(file), *arguments, stdout=out)
    return out.getvalue()


def test_json_has_exactly_the_documented_form(
    file: Path, collection: list[Image], model_version: ModelVersion
) -> None:
    answer = json.loads(run(file, "--json", "--scope", "all", "--top", "4"))
    assert list(answer) == ["query", "results"]
    assert list(answer["query"]) == [
        "organ",
        "organ_probability",
        "modality",
        "modality_probability",
        "model_version",
    ]
    assert answer["query"]["model_version"] == f"v{model_version.pk}"
    assert [hit["rank"] for hit in answer["results"]] == [1, 2, 3, 4]
    assert list(answer["results"][0]) == [
        "rank",
        "image_id",
        "distance",
        "match",
        "organ",
        "organ_is_predicted",
        "modality",
        "modality_is_predicted",
        "is_other_organ",
        "dataset",
        "more_of_series",
        "nearly_same",
        "file",
    ]
    distances = [hit["distance"] for hit in answer["results"]]
    assert distances == sorted(distances)


def test_table_names_what_is_seen_and_the_hits(file: Path, collection: list[Image]) -> None:
    said = run(file, "--organ", "chest")
    assert said.startswith("organ ")
    assert "3 of 3 images" in said


def test_nothing_is_left_behind(file: Path, collection: list[Image]) -> None:
    run(file)
    assert not Query.objects.exists()
    folders, files = default_storage.listdir("queries")
    assert not files
    assert all(default_storage.listdir(f"queries/{folder}") == ([], []) for folder in folders)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--organ", "tail"], "Known: brain, chest"),
        (["--modality", "ZZ"], "Known: CT"),
        (["--top", "0"], "at least 1"),
        (["--sex", "X"], "--sex: "),
        (["--dataset", "none"], "--dataset: "),
        (["--imported-to", "soon"], "--imported_to: "),
        (["--region", "0,0,0.01,1"], "too small"),
        (["--region", "0,0,2,1"], "inside the picture"),
    ],
)
def test_an_unknown_filter_is_refused(
    arguments: list[str], sentence: str, file: Path, collection: list[Image]
) -> None:
    with pytest.raises(CommandError, match=sentence):
        run(file, *arguments)


def test_several_files_and_a_part_of_one(file: Path, tmp_path: Path, collection: list[Image]) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(factories.png_bytes(seed=3))
    assert "6 of 6 images" in run(file, str(other))
    assert "6 of 6 images" in run(file, "--region", "0.2,0.2,0.8,0.8")
    test_nothing_is_left_behind(file, collection)


def test_how_it_was_found_is_told(file: Path, collection: list[Image]) -> None:
    assert "exact scan of the projections, 3 kept" in run(file, "--organ", "chest", "--explain")
    assert "plans" in json.loads(run(file, "--json", "--explain"))


def test_a_file_that_is_no_image_is_refused(tmp_path: Path, model_version: ModelVersion) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear colleague")
    with pytest.raises(CommandError):
        run(path)
    with pytest.raises(CommandError, match="cannot be read"):
        run(tmp_path / "absent.png")
    assert not Query.objects.exists()


def test_without_a_model_it_says_so(file: Path, db: None) -> None:
    with pytest.raises(CommandError, match="No model is in service yet"):
        run(file)
