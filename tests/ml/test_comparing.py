"""`manage.py compare_methods`: every row measured by one protocol, files, a page, and where it stopped."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from PIL import Image as Picture

from ml.comparing import METHODS, Task, claim, compare, cross_validate, hidden_layers, split_in_two
from ml.comparison_report import Value, report_tables
from ml.labelled_folder import LabelledFolder, read_labelled_folder
from ml.management.commands import compare_methods
from ml.models import Comparison
from ml.training import Stopped
from tests.factories import make_pixels, tiny_shape

ClientOf = Callable[[str | None], Client]
QUICK = ["untrained", "lbp", "autoregressive"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 images to learn from and 6 to ask with, of patients with two images each."""
    lines = ["path,organ,modality,group_id,split"]
    for number in range(18):
        organ = ("kidney", "chest")[number % 2]
        shape = "brain" if organ == "kidney" else "chest"
        Picture.fromarray(make_pixels(number, shape, 256)).save(tmp_path / f"{number}.png")
        split = "test" if number >= 12 else "train"
        lines.append(f"{number}.png,{organ},CT,patient-{number // 4},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def task(folder: Path, tmp_path: Path) -> Task:
    learning, queries = split_in_two(read_labelled_folder(folder))
    return Task(learning, queries, 1, "cpu", tmp_path / "states")


def quiet(key: str, done: bool) -> None:
    pass


def test_the_command_offers_what_there_is() -> None:
    assert list(METHODS) == compare_methods.METHODS


def test_every_method_names_its_source_and_its_deviations() -> None:
    assert all(method.source for method in METHODS.values())
    assert [key for key, method in METHODS.items() if not method.deviations] == ["default"]


@pytest.mark.django_db
def test_the_command_writes_tables_figures_and_a_page(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    arguments = ["compare_methods", "--data", str(folder), "--out", str(out), "--epochs", "1", "--methods"]
    call_command(*arguments, *QUICK)
    call_command(*arguments, *QUICK, "default")
    printed = capsys.readouterr().out
    assert printed.count("lbp: measured before") == 1
    for text in ("Table 2", "Table 3", "Table 4", "Table 5", "LBP + AdaBoost", "untrained", "0.7674"):
        assert text in printed
    written = {path.name for path in out.iterdir()}
    assert {"index.html", "results.json", "table-1a.csv", "table-5.csv", "figure-7.svg", "figure-7.png",
            "figure-9.png", "figure-10.svg", "learning.svg"} <= written  # fmt: skip
    rows = list(csv.reader((out / "table-4.csv").open()))
    assert rows[0][:5] == ["method", "F1", "F1 low", "F1 high", "F1 in the paper"]
    assert "LBP + SVM" in [row[0] for row in rows]
    page = (out / "index.html").read_text()
    assert page.index("Proposed network, untrained") < page.index("LBP + SVM")
    assert page.count("data:image/png;base64") == 5
    assert "<script" not in page
    comparison = Comparison.objects.get()  # one for the folder, though the command ran twice
    assert comparison.report.open().read() == (out / "index.html").read_bytes()
    assert "1, the same for every deep method" in comparison.facts["Epochs"]


def test_figures_are_those_of_the_protocol(task: Task, tmp_path: Path) -> None:
    rows = compare(task, ["lbp"], claim(tmp_path, task), quiet)["lbp"]
    assert [row["name"].removeprefix("LBP + ") for row in rows] == [
        "SVM", "neural network", "decision tree", "AdaBoost",
    ]  # fmt: skip
    figures = rows[0]["retrieval"]["features"]
    assert figures["all"]["organ"]["queries"] == 6
    shown = rows[0]["examples"]["chest"]
    assert task.queries.organ_names[task.queries.organ[shown["query"]]] == "chest"
    assert len(shown["all"]) == 10
    same = [task.learning.organ[position] for position in shown["predicted"]]
    assert set(same) <= {task.learning.organ_names.index(shown["seen"])}


def test_the_row_of_the_proposed_network_has_the_papers_layers(task: Task, tmp_path: Path) -> None:
    (row,) = compare(task, ["untrained"], claim(tmp_path, task), quiet)["untrained"]
    assert list(row["retrieval"]) == ["FC1", "conv 5", "FC2", "FC3"]
    assert row["parameters"] == 74_957_506


def test_hidden_layers_are_taken_only_while_asked_for() -> None:
    import torch

    from ml.network import OrganNetwork

    network = OrganNetwork(tiny_shape()).eval()
    with torch.inference_mode(), hidden_layers(network) as hidden:
        network(torch.rand(3, 1, 224, 224))
        assert {name: tuple(values.shape) for name, values in hidden.values.items()} == {
            "conv 5": (3, 4 * 36), "FC2": (3, 32), "FC3": (3, 32),
        }  # fmt: skip
        hidden.values.clear()
    network(torch.rand(1, 1, 224, 224))
    assert hidden.values == {}


def test_a_stopped_comparison_keeps_what_is_done(task: Task, tmp_path: Path) -> None:
    results = claim(tmp_path, task)
    begun: list[str] = []

    def begin(key: str, done: bool) -> None:
        begun.append(f"{key} {done}")

    stopping = replace(task, should_stop=lambda: "lbp False" in begun)
    with pytest.raises(Stopped):
        compare(stopping, ["untrained", "lbp"], results, begin)
    assert {path.name for path in results.iterdir()} == {"settings.json", "untrained.json"}
    compare(task, ["untrained", "lbp"], results, begin)
    assert begun == ["untrained False", "lbp False", "untrained True", "lbp False"]


def test_a_folder_holds_one_comparison(task: Task, tmp_path: Path) -> None:
    assert claim(tmp_path / "out", task) == claim(tmp_path / "out", task)
    with pytest.raises(ValueError, match=r"6 queries and 1 epochs, not .* 2 epochs; name another folder"):
        claim(tmp_path / "out", replace(task, epochs=2))


def test_folds_keep_patients_together_and_are_resumed(task: Task, tmp_path: Path, monkeypatch: Any) -> None:
    learnt: list[tuple[set[str], int]] = []

    def instead_of_training(learning: LabelledFolder, *arguments: Any) -> Any:
        learnt.append((set(learning.group), len(learning)))
        return None, None, []

    def instead_of_seeing(network: Any, preprocessing: Any, images: LabelledFolder, *others: Any) -> Any:
        assert not set(images.group) & learnt[-1][0]
        return {}, images.organ

    monkeypatch.setattr("ml.comparing.trained", instead_of_training)
    monkeypatch.setattr("ml.comparing.described", instead_of_seeing)
    results = claim(tmp_path, task)
    for _ in range(2):
        scores = cross_validate(task, "proposed", 3, results, lambda key, fold, folds: None)
    assert len(learnt) == 3
    assert sum(len(task.learning) - number for _, number in learnt) == len(task.learning)
    assert [score["accuracy"] for score in scores] == [1, 1, 1]


def test_without_a_split_whole_groups_are_drawn(task: Task, folder: Path) -> None:
    images = read_labelled_folder(folder)
    learning, queries = split_in_two(replace(images, split=np.full(len(images), "")))
    assert len(learning) + len(queries) == len(images)
    assert not set(learning.group) & set(queries.group)
    with pytest.raises(ValueError, match="split train"):
        split_in_two(replace(images, split=np.full(len(images), "train")))


def test_the_paper_stands_beside_a_figure_where_it_has_one(task: Task, tmp_path: Path) -> None:
    found = compare(task, ["untrained", "lbp"], claim(tmp_path, task), quiet)
    tables = {table.number: table for table in report_tables(found)}
    assert tables["4"].header == ["method", "F1", "paper", "accuracy"]
    line = next(line for line in tables["4"].lines if line[0] == "LBP + SVM")
    assert line[2] == "0.7674"
    assert Value(None).text == "-"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "/nowhere"], "No such file"),
        (["--epochs", "0"], "at least 1 epoch"),
        (["--folds", "1"], "at least 2 folds"),
    ],
)
def test_what_cannot_be_compared_is_told(
    folder: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    given = ["--data", str(folder), "--out", str(tmp_path / "out"), *arguments]
    with pytest.raises(CommandError, match=sentence):
        call_command("compare_methods", *given)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("role", "status"),
    [("admin", 200), ("curator", 403), ("clinician", 302), ("nobody", 302), (None, 302)],
)
def test_the_report_by_role(client_of: ClientOf, tmp_path: Path, role: str | None, status: int) -> None:
    (tmp_path / "index.html").write_text("<h1>Comparison of methods</h1>")
    comparison = Comparison.keep(tmp_path, {"Images": "12"})
    client = client_of(role)
    response = client.get(f"/admin/ml/comparison/{comparison.pk}/report/")
    assert response.status_code == status
    page = client.get(f"/admin/ml/comparison/{comparison.pk}/change/")
    assert page.status_code == status
    if status == 200:
        assert "Comparison of methods" in response.content.decode()
        assert "script" not in response["Content-Security-Policy"]
        assert response["Content-Security-Policy"].endswith("sandbox")
        assert f"/admin/ml/comparison/{comparison.pk}/report/" in page.content.decode()


def test_results_can_be_read_by_others(task: Task, tmp_path: Path) -> None:
    compare(task, ["autoregressive"], claim(tmp_path, task), quiet)
    stored = json.loads((tmp_path / "methods" / "autoregressive.json").read_text())
    assert stored["rows"][0]["name"] == "autoregressive + binary-tree SVM"
