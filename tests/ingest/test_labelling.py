"""Labels that people give: bulk, history, undo; by whom in the admin."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from ingest import labelling
from ingest.labelling import Labels, label, undo
from ingest.models import Image, LabelChange, LabelEdit, LabelOrigin, OrganClass
from tests.factories import make_image

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def user() -> User:
    return User.objects.create_user("anna")


@pytest.fixture
def images() -> list[Image]:
    return [make_image(organ=organ) for organ in ("brain", "chest", None)]


def labels() -> list[tuple[str | None, str | None, str]]:
    return list(Image.objects.order_by("pk").values_list("organ__name", "modality_id", "split"))


def heart() -> int:
    return OrganClass.objects.get_or_create(name="heart")[0].pk


def test_many_images_are_labelled_and_undone_as_one(
    user: User, images: list[Image], monkeypatch: Any
) -> None:
    monkeypatch.setattr(labelling, "LABELLED_AT_ONCE", 2)
    before = labels()
    edit = label(Image.objects.all(), Labels(organ=heart(), split="test"), user, LabelOrigin.ADMIN)
    assert labels() == [("heart", modality, "test") for _, modality, _ in before]
    assert (edit.created_by, edit.summary, edit.changes.count()) == (user, "organ: heart, split: test", 6)
    assert undo(edit, user) == 6
    assert labels() == before
    edit.refresh_from_db()
    assert edit.undone_by == user
    assert undo(edit, user) == 0


def test_labels_are_taken_away(user: User, images: list[Image]) -> None:
    edit = label(Image.objects.all(), Labels(organ="", modality=""), user, LabelOrigin.ADMIN)
    assert [row[:2] for row in labels()] == [(None, None)] * 3
    assert edit.summary == "organ: none, modality: none"
    undo(edit, None)
    assert [row[0] for row in labels()] == ["brain", "chest", None]


def test_undoing_leaves_what_was_labelled_since(user: User, images: list[Image]) -> None:
    edit = label(Image.objects.all(), Labels(organ=heart()), user, LabelOrigin.ADMIN)
    other = OrganClass.objects.create(name="liver").pk
    label(Image.objects.filter(pk=images[0].pk), Labels(organ=other), user, LabelOrigin.REVIEW)
    assert undo(edit, user) == 2
    assert [row[0] for row in labels()] == ["liver", "chest", None]


def test_a_label_that_was_there_is_confirmed_in_the_history(user: User, images: list[Image]) -> None:
    chosen = Image.objects.filter(pk=images[0].pk)
    edit = label(chosen, Labels(organ=images[0].organ_id), user, LabelOrigin.REVIEW)
    change = LabelChange.objects.get()
    assert change.before == change.after == str(images[0].organ_id)
    assert undo(edit, user) == 0
    assert labels()[0][0] == "brain"


def test_admin_labels_what_is_selected(client_of: ClientOf, images: list[Image]) -> None:
    url = reverse("admin:ingest_image_changelist")
    data: dict[str, Any] = {"action": "label_selected", "_selected_action": [i.pk for i in images[:2]]}
    assert client_of("clinician").post(url, data).status_code == 302
    client = client_of("curator")
    assert "Label 2 images" in client.post(url, data).content.decode()
    assert labels()[0][0] == "brain"
    nothing = client.post(url, data | {"confirmed": "yes"}).content.decode()
    assert "Choose a label to give, or one to take away." in nothing
    assert not LabelEdit.objects.exists()
    data |= {"confirmed": "yes", "organ": heart(), "take_away": ["modality"]}
    assert "2 images labelled" in client.post(url, data, follow=True).content.decode()
    assert [row[:2] for row in labels()[:2]] == [("heart", None)] * 2
    assert labels()[2][0] is None
    assert LabelEdit.objects.get().created_by is not None


def test_admin_labels_all_that_a_filter_keeps(client_of: ClientOf, images: list[Image]) -> None:
    url = reverse("admin:ingest_image_changelist") + "?organ__isnull=True"
    data = {"action": "label_selected", "_selected_action": [images[2].pk], "select_across": "1"}
    client_of("curator").post(url, data | {"confirmed": "yes", "split": "test"})
    assert [row[2] for row in labels()] == ["", "", "test"]


def test_one_image_changed_in_the_admin_is_in_the_history(client_of: ClientOf, images: list[Image]) -> None:
    image = images[0]
    url = reverse("admin:ingest_image_change", args=[image.pk])
    client = client_of("curator")
    client.post(url, {"organ": image.organ_id, "modality": image.modality_id, "split": "train"})
    edit = LabelEdit.objects.get()
    assert (edit.summary, edit.origin) == ("split: train", "admin")
    client.post(url, {"organ": "", "modality": image.modality_id, "split": "train"})
    assert labels()[0] == (None, image.modality_id, "train")


def test_edits_are_undone_in_the_admin(client_of: ClientOf, images: list[Image], user: User) -> None:
    first = label(Image.objects.all(), Labels(organ=heart()), user, LabelOrigin.ADMIN)
    liver = OrganClass.objects.create(name="liver").pk
    second = label(Image.objects.all(), Labels(organ=liver), user, LabelOrigin.ADMIN)
    url = reverse("admin:ingest_labeledit_changelist")
    page = client_of("curator").get(url).content.decode()
    assert "organ: liver, of 3 images" in page
    data = {"action": "undo_selected", "_selected_action": [first.pk, second.pk]}
    assert client_of("clinician").post(url, data).status_code == 302
    assert "Undone: 6 labels." in client_of("curator").post(url, data, follow=True).content.decode()
    assert [row[0] for row in labels()] == ["brain", "chest", None]
