"""Trainings on frozen versions: exactly what was frozen is learnt; chosen everywhere; by whom."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from ingest.models import Dataset, DatasetVersion, Image, OrganClass
from ingest.versions import freeze
from ml.models import ModelVersion, RunStatus, TrainingRun
from ml.running import execute
from ml.training_images import TrainingError, enough_to_learn_from, select_images
from tests.factories import make_image

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]
TINY = {"channels": (4, 4, 4, 4, 4), "fc2": 32, "fc3": 32}
API, ADD = "/api/v1/training-runs/", "/admin/ml/trainingrun/add/"
FORM = {"recipe": "default", "epochs": "1", "device": "cpu"}


@pytest.fixture
def version(db: None) -> DatasetVersion:
    """Five brains, five chests, one of each held out for testing; since then all are livers, one is more."""
    for number in range(12):
        split = "test" if number < 2 else "train"
        make_image(number, organ=("brain", "chest")[number % 2], modality="CT", split=split)
    version = freeze(Dataset.objects.get(), "first")
    liver = OrganClass.objects.create(name="liver")
    Image.objects.update(organ=liver, modality=None, split="", group_key="one patient")
    make_image(100, organ="liver")
    return version


def test_what_was_frozen_is_learnt(version: DatasetVersion) -> None:
    selection = select_images([], [version])
    images = Image.objects.order_by("pk")[2:12]
    assert sorted(selection.renditions) == sorted(image.rendition.name for image in images)
    labels = dict(zip(selection.renditions, selection.organs, strict=True))
    assert [labels[image.rendition.name] for image in images] == [0, 1] * 5
    assert (selection.organ_names, selection.modality_codes) == (["brain", "chest"], ["CT"])
    assert 0 < selection.learning < 10  # the groups of then: not all of one patient
    assert selection.deleted == 0


def test_other_data_sets_are_learnt_as_they_are_now(version: DatasetVersion) -> None:
    other = make_image(200, organ="heart", dataset=Dataset.objects.create(name="other")).dataset
    with_version = select_images([version.dataset, other], [version])
    assert (with_version.organ_names, len(with_version.renditions)) == (["brain", "chest", "heart"], 11)
    assert select_images([other], [version]) == with_version
    assert select_images([], []).organ_names == ["heart", "liver"]


def test_a_training_names_the_version_and_tells_what_was_deleted(
    version: DatasetVersion, client_of: ClientOf
) -> None:
    Image.objects.get(rendition__contains=f"{5:064x}").delete()
    Image.objects.get(rendition__contains=f"{0:064x}").delete()  # it was held out for testing
    run = TrainingRun.objects.create(epochs=1, device="cpu")
    run.chosen_versions.add(version)
    execute(run.pk, sizes=TINY)
    run.refresh_from_db()
    assert (run.status, run.error, run.deleted_images) == (RunStatus.SUCCEEDED, "", 1)
    assert list(run.dataset_versions.all()) == [version]
    assert DatasetVersion.objects.count() == 1  # nothing else was frozen
    learnt = ModelVersion.objects.get()
    assert learnt.organs == ["brain", "chest"]
    assert learnt.metrics["training_images"] + learnt.metrics["validation_images"] == 9
    client = client_of("admin")
    page = client.get(f"/admin/ml/trainingrun/{run.pk}/change/").content.decode()
    assert "test, first (12 images). 1 of the images had been deleted by then." in page
    told = client.get(f"{API}{run.pk}/").json()
    assert (told["dataset_versions"], told["deleted_images"]) == (["test, first"], 1)


def test_a_version_whose_images_are_gone_fails_with_a_sentence(version: DatasetVersion) -> None:
    Image.objects.all().delete()
    run = TrainingRun.objects.create()
    run.chosen_versions.add(version)
    execute(run.pk, sizes=TINY)
    run.refresh_from_db()
    assert (run.status, run.error[:37]) == (RunStatus.FAILED, "No image is labelled for training. La")


def test_what_is_no_choice(version: DatasetVersion) -> None:
    second = freeze(Dataset.objects.get(), "second")
    with pytest.raises(TrainingError, match="Choose one version of the data set test"):
        enough_to_learn_from([], [version, second])
    with pytest.raises(TrainingError, match=r"show one organ \(liver\)"):
        enough_to_learn_from([], [second])
    enough_to_learn_from([], [version])


def test_choosing_in_the_admin(version: DatasetVersion, client_of: ClientOf) -> None:
    client = client_of("admin")
    offered = f"test, first (12 images, {version.created_at:%Y-%m-%d})"
    assert offered in client.get(ADD).content.decode()
    second = freeze(Dataset.objects.get(), "second")
    both = client.post(ADD, {**FORM, "chosen_versions": [version.pk, second.pk]})
    assert "Choose one version of the data set test." in both.content.decode()
    assert client.post(ADD, {**FORM, "chosen_versions": [version.pk]}).status_code == 302
    assert list(TrainingRun.objects.get().chosen_versions.all()) == [version]
    Dataset.objects.update(trashed_at=timezone.now())
    assert offered not in client.get(ADD).content.decode()


def test_choosing_by_rest(version: DatasetVersion, client_of: ClientOf) -> None:
    for role, expected in {"clinician": 403, "nobody": 403, None: 401, "curator": 200}.items():
        assert client_of(role).get("/api/v1/dataset-versions/").status_code == expected
    client = client_of("admin")
    listed: Any = client.get("/api/v1/dataset-versions/").json()["results"]
    assert [(each["dataset"], each["name"], each["images"]) for each in listed] == [("test", "first", 12)]

    def post(*ids: int) -> Any:
        return client.post(API, {"chosen_versions": ids}, content_type="application/json")

    assert post(listed[0]["id"]).json()["chosen_versions"] == [version.pk]
    assert list(TrainingRun.objects.get().chosen_versions.all()) == [version]
    assert (post(99).status_code, list(post(99).json())) == (400, ["chosen_versions"])
    second = freeze(Dataset.objects.get(), "second")
    assert "Choose one version" in post(version.pk, second.pk).content.decode()


def test_choosing_by_command(version: DatasetVersion) -> None:
    out = StringIO()
    call_command("train_model", "--queue", "--dataset-version", "test=first", stdout=out)
    assert list(TrainingRun.objects.get().chosen_versions.all()) == [version]
    with pytest.raises(CommandError, match="There is no version of a data set test=none"):
        call_command("train_model", "--queue", "--dataset-version", "test=none")
    freeze(Dataset.objects.get(), "second")
    with pytest.raises(CommandError, match="Choose one version of the data set test"):
        call_command(
            "train_model", "--queue", "--dataset-version", "test=first", "--dataset-version", "test=second"
        )
    assert TrainingRun.objects.count() == 1
