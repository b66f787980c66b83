"""Organ names that come with files: decided on once, waiting until then; by whom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from ingest.importing import import_queued
from ingest.labels import Claims
from ingest.models import Image, LabelEdit, OrganClass, OrganName, UploadBatch
from ingest.naming import decide, undecided, waiting_names
from ingest.receiving import open_batch, receive_file
from tests import factories
from tests.factories import dicom_bytes, png_bytes

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def batch() -> UploadBatch:
    return open_batch("ward", "dicom", None)


def bring_in(batch: UploadBatch, *names: str, first_seed: int = 0) -> None:
    for seed, name in enumerate(names, first_seed):
        receive_file(batch, f"{seed}.png", png_bytes(seed=seed), Claims(organ_name=name))
    import_queued()


def organs() -> list[str | None]:
    return list(Image.objects.order_by("pk").values_list("organ__name", flat=True))


def test_unknown_names_wait_and_known_ones_do_not(batch: UploadBatch) -> None:
    OrganClass.objects.create(name="brain")
    bring_in(batch, "Brain", "Hirn", "Hirn", "")
    receive_file(batch, "a.dcm", dicom_bytes(BodyPartExamined="LEG"))
    import_queued()
    assert organs() == ["brain", None, None, None, None]
    assert [(each.name.name, each.images, len(each.samples)) for each in waiting_names()] == [
        ("hirn", 2, 2),
        ("leg", 1, 1),
    ]
    assert OrganClass.objects.count() == 1


def test_a_decision_labels_what_waited_and_what_comes_later(batch: UploadBatch) -> None:
    brain = OrganClass.objects.create(name="brain")
    bring_in(batch, "Hirn", "other")
    user = factories.make_user("curator")
    decide(OrganName.objects.get(name="hirn"), brain, user)
    bring_in(batch, "hirn", first_seed=10)
    assert organs() == ["brain", None, "brain"]
    edit = LabelEdit.objects.get()
    assert (edit.created_by, edit.summary, edit.get_origin_display()) == (
        user,
        "organ: brain",
        "a decision on its name",
    )
    assert [name.name for name in undecided()] == ["other"]


def test_what_was_labelled_otherwise_meanwhile_stays(batch: UploadBatch) -> None:
    bring_in(batch, "hirn")
    Image.objects.update(organ=OrganClass.objects.create(name="chest"))
    decide(OrganName.objects.get(), OrganClass.objects.create(name="brain"), None)
    assert organs() == ["chest"]


def test_names_that_are_no_organs_do_not_wait(batch: UploadBatch) -> None:
    bring_in(batch, "misc")
    decide(OrganName.objects.get(), None, None)
    bring_in(batch, "misc", first_seed=10)
    assert organs() == [None, None]
    assert not undecided().exists()


def test_a_batch_may_make_organs() -> None:
    OrganName.objects.create(name="misc", is_ignored=True)
    brain = OrganClass.objects.create(name="brain")
    OrganName.objects.create(name="hirn", organ=brain)
    bring_in(open_batch("ward", "dicom", None, makes_organs=True), "Left Kidney", "misc", "hirn")
    assert organs() == ["left-kidney", None, "brain"]
    assert not undecided().exists()


def test_images_that_waited_elsewhere_are_labelled_when_a_batch_makes_the_organ(batch: UploadBatch) -> None:
    bring_in(batch, "heart")
    bring_in(open_batch("ward", "dicom", None, makes_organs=True), "heart", first_seed=10)
    assert organs() == ["heart", "heart"]


def test_a_duplicate_waits_too(batch: UploadBatch) -> None:
    bring_in(batch, "")
    bring_in(batch, "hirn")  # the same bytes
    assert Image.objects.count() == 1
    decide(OrganName.objects.get(), OrganClass.objects.create(name="brain"), None)
    assert organs() == ["brain"]


def test_page_by_role(client_of: ClientOf, batch: UploadBatch) -> None:
    bring_in(batch, "hirn")
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        client = client_of(role)
        assert client.get("/imports/names/").status_code == expected
        assert client.post("/imports/names/", {"name": "hirn", "meaning": "class"}).status_code == expected
    assert undecided().exists()
    assert "hirn" in client_of("curator").get("/imports/names/").content.decode()


def test_decisions_through_the_page(client_of: ClientOf, batch: UploadBatch) -> None:
    OrganClass.objects.create(name="brain")
    bring_in(batch, "hirn", "heart", "liver", "misc")
    client = client_of("curator")
    assert "4 organ names wait for a decision" in client.get("/imports/").content.decode()
    assert "4 organ names wait for a decision" in client.get(f"/imports/{batch.pk}/").content.decode()
    other = open_batch("elsewhere", "folder", None)
    assert "wait for a decision" not in client.get(f"/imports/{other.pk}/").content.decode()
    assert "4 organ names wait" in client.get(f"/imports/{batch.pk}/").content.decode()

    def post(**data: Any) -> str:
        return client.post("/imports/names/", data, follow=True).content.decode()

    assert "Choose an organ of the list." in post(name="hirn", meaning="organ", organ="nose")
    assert "From now on hirn means brain." in post(name="hirn", meaning="organ", organ="brain")
    assert "From now on misc names no organ." in post(name="misc", meaning="none")
    page = post(name=["heart", "liver", "unheard-of"], meaning="class")
    assert "No name waits." in page
    assert organs() == ["brain", "heart", "liver", None]
    assert "wait for a decision" not in client.get("/imports/").content.decode()


def test_the_command_tells_of_names_that_wait(tmp_path: Path, capsys: Any) -> None:
    for seed, name in enumerate(("heart", "liver")):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "a.png").write_bytes(png_bytes(seed=seed))
    call_command("import_images", str(tmp_path / "in"), dataset="ward")
    assert "wait for a decision, on the page Imports: heart, liver." in capsys.readouterr().out
    call_command("import_images", str(tmp_path / "in"), dataset="ward", new_organs=True)
    assert organs() == ["heart", "liver"]
