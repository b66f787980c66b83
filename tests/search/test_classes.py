"""Classes as data: added, renamed, merged and taken apart again, with searches that go on; by whom."""

from collections.abc import Callable

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.test import Client

from ingest.importing import import_queued
from ingest.labelling import Labels, label, undo
from ingest.labels import Claims
from ingest.models import (
    Image,
    LabelEdit,
    LabelOrigin,
    Modality,
    ModalityName,
    OrganClass,
    OrganName,
)
from ingest.naming import decide_modality, waiting_modalities
from ingest.receiving import open_batch, receive_file
from ingest.trash import put_into_trash
from ml.models import ModelVersion
from ml.outputs import by_class
from search import answering, asking, classes
from search.indexing import index_next_batch
from search.models import Embedding, Query
from search.options import Scope, SearchOptions
from search.retrieval import search
from tests.factories import dicom_bytes, make_image, make_pixels, make_user, png_bytes

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]
PREDICTED = SearchOptions(scope=Scope.PREDICTED)


@pytest.fixture
def collection(model_version: ModelVersion) -> list[Image]:
    """Six brains, four chests and two without a label, indexed."""
    images = [make_image(organ=organ) for organ in ["brain"] * 6 + ["chest"] * 4 + [None] * 2]
    while index_next_batch():
        pass
    return images


def ask(seed: int = 1) -> Query:
    query = asking.ask_with_file(png_bytes(make_pixels(seed, "brain")), None)
    answering.answer(query)
    assert query.error == ""
    return query


def found(query: Query, options: SearchOptions = PREDICTED) -> set[int]:
    return {hit.image_id for hit in search(query, options, page_size=100).hits}


def names_of(query: Query) -> list[str]:
    return [name for name, _ in query.organ_probabilities]


def organ(name: str) -> OrganClass:
    return OrganClass.objects.get(name=name)


def test_a_renamed_organ_is_found_by_queries_of_before_and_after(collection: list[Image]) -> None:
    before = ask()
    first, second = names_of(before)
    expected, other = found(before), found(before, SearchOptions(organ=second))
    classes.rename_organ(organ(first), "Cerebrum", None)
    before.refresh_from_db()
    after = ask(1)
    assert names_of(before) == names_of(after) == ["cerebrum", second]
    assert dict(after.organ_probabilities) == dict(before.organ_probabilities)
    assert found(before) == found(after) == expected != set()
    assert found(after, SearchOptions(organ=second)) == other
    assert found(after, SearchOptions(organ="cerebrum")) == expected
    make_image(organ=None)
    index_next_batch()
    assert set(OrganClass.objects.values_list("name", flat=True)) == {"cerebrum", second}  # none is made anew


def test_a_saved_address_finds_the_renamed_organ(client_of: ClientOf, collection: list[Image]) -> None:
    query = ask()
    classes.rename_organ(organ("chest"), "thorax", None)
    page = client_of("clinician").get(f"/queries/{query.pk}/?scope=all&organ=chest")
    assert page.context["options"].organ == "thorax"
    answer = client_of("clinician").get(f"/api/v1/queries/{query.pk}/results/?scope=all&organ=chest").json()
    assert {hit["organ"] for hit in answer["results"]} == {"thorax"}


def test_files_under_the_earlier_name_mean_the_renamed_organ() -> None:
    OrganClass.objects.create(name="brain")
    classes.rename_organ(organ("brain"), "cerebrum", None)
    receive_file(open_batch("ward", "dicom", None), "a.png", png_bytes(), Claims("brain"))
    import_queued()
    assert str(Image.objects.get().organ) == "cerebrum"


def test_an_organ_that_takes_a_waiting_name_labels_what_waited() -> None:
    receive_file(open_batch("ward", "dicom", None), "a.png", png_bytes(), Claims("hirn"))
    import_queued()
    classes.rename_organ(OrganClass.objects.create(name="brain"), "hirn", None)
    assert str(Image.objects.get().organ) == "hirn"
    assert [name.name for name in OrganName.objects.all()] == ["brain"]


def test_names_that_are_taken() -> None:
    brain, chest = OrganClass.objects.create(name="brain"), OrganClass.objects.create(name="chest")
    OrganName.objects.create(name="thorax", organ=chest)
    for name, sentence in {
        "Chest": "There is an organ chest already",
        "thorax": "thorax is another name of chest",
        "?!": "needs a name",
    }.items():
        with pytest.raises(classes.ClassError, match=sentence):
            classes.rename_organ(brain, name, None)
        with pytest.raises(classes.ClassError, match=sentence):
            classes.add_organ(name, None)
    classes.rename_organ(chest, "thorax", None)  # its own other name
    assert {name.name: str(name.organ) for name in OrganName.objects.all()} == {"chest": "thorax"}


def test_a_merge_adds_up_what_the_network_sees_and_can_be_undone(collection: list[Image]) -> None:
    query = ask()
    labelled = {image.pk: image.organ_id for image in collection}
    OrganName.objects.create(name="thorax", organ=organ("chest"))
    chest = organ("chest").pk
    user = make_user("curator")
    edit = classes.merge_organs(organ("chest"), organ("brain"), user)
    assert (edit.summary, edit.created_by) == ("chest merged into brain", user)
    query.refresh_from_db()
    after = ask(1)
    for each in (query, after):
        assert names_of(each) == ["brain"]
        assert each.organ_probability == pytest.approx(1, abs=1e-5)
        assert found(each) == {image.pk for image in collection}
    assert {name.name for name in organ("brain").other_names.all()} == {"chest", "thorax"}
    assert set(Embedding.objects.values_list("organ__name", "predicted_organ__name")) == {("brain", "brain")}
    assert not OrganClass.objects.filter(name="chest").exists()

    assert undo(edit, user) == 4
    assert organ("chest").pk == chest
    assert {image.pk: image.organ_id for image in Image.objects.all()} == labelled
    assert len(names_of(ask(1))) == 2  # the network's outputs are two classes again
    assert found(ask(1), SearchOptions(organ="chest", scope=Scope.ALL)) == {
        image.pk for image in collection if image.organ_id == chest
    }


def test_an_older_edit_undone_after_a_merge_gives_what_the_class_became() -> None:
    image = make_image(organ="thorax")
    chest, brain = OrganClass.objects.create(name="chest"), OrganClass.objects.create(name="brain")
    edit = label(Image.objects.all(), Labels(organ=brain.pk), None, LabelOrigin.ADMIN)
    assert not classes.merge_organs(organ("thorax"), chest, None).changes.exists()  # nothing was labelled so
    undo(edit, None)
    image.refresh_from_db()
    assert image.organ == chest


def names_by_organ() -> dict[str, str]:
    return {name.name: str(name.organ) for name in OrganName.objects.all()}


def test_an_undone_merge_brings_the_class_back_as_it_was() -> None:
    """Its description and the names that moved along; without an image, too."""
    brain = OrganClass.objects.create(name="brain")
    chest = OrganClass.objects.create(name="chest", description="Thorax and lungs.")
    user = make_user("curator")
    for name, owner in {"thorax": chest, "lungs": chest, "head": brain}.items():
        OrganName.objects.create(name=name, organ=owner, decided_by=user)
    key = chest.pk
    edit = classes.merge_organs(chest, brain, None)
    assert set(names_by_organ().values()) == {"brain"}
    classes.take_name_away(OrganName.objects.get(name="lungs"), OrganClass.objects.create(name="lung"), None)
    assert undo(edit, None) == 0
    again = organ("chest")
    assert (again.pk, again.description) == (key, "Thorax and lungs.")
    assert names_by_organ() == {"thorax": "chest", "lungs": "lung", "head": "brain"}
    assert OrganName.objects.get(name="thorax").decided_by == user


@pytest.mark.parametrize("latest_first", [True, False])
def test_merges_of_merges_are_undone_in_any_order(latest_first: bool) -> None:
    for name in ("lungs", "chest", "trunk"):
        make_image(organ=name)
    OrganName.objects.create(name="thorax", organ=organ("chest"))
    edits = [
        classes.merge_organs(organ(a), organ(b), None) for a, b in [("lungs", "chest"), ("chest", "trunk")]
    ]
    assert names_by_organ() == {"lungs": "trunk", "chest": "trunk", "thorax": "trunk"}
    for edit in reversed(edits) if latest_first else edits:
        undo(edit, None)
    assert names_by_organ() == {"thorax": "chest"}
    labels = Image.objects.order_by("pk").values_list("organ__name", flat=True)
    assert list(labels)[1:] == ["chest", "trunk"]


def test_a_merge_is_undone_though_a_new_class_has_the_name() -> None:
    image = make_image(organ="chest")
    edit = classes.merge_organs(organ("chest"), OrganClass.objects.create(name="brain"), None)
    classes.take_name_away(OrganName.objects.get(name="chest"), None, None)
    new = classes.add_organ("chest", None)
    assert undo(edit, None) == 1
    image.refresh_from_db()
    assert image.organ == new


def test_an_undone_merge_of_modalities_brings_name_description_and_names_back() -> None:
    dx = Modality.objects.create(code="DX", name="Digital radiography", description="Not CR.")
    ModalityName.objects.create(name="XRAY", modality=dx)
    edit = classes.merge_modalities(dx, Modality.objects.create(code="CR"), None)
    assert set(ModalityName.objects.values_list("name", "modality")) == {("XRAY", "CR"), ("DX", "CR")}
    undo(edit, None)
    again = Modality.objects.get(pk="DX")
    assert (again.name, again.description) == ("Digital radiography", "Not CR.")
    assert set(ModalityName.objects.values_list("name", "modality")) == {("XRAY", "DX")}


def test_nothing_is_merged_into_itself() -> None:
    brain = OrganClass.objects.create(name="brain")
    with pytest.raises(classes.ClassError, match="another organ"):
        classes.merge_organs(brain, brain, None)


def test_modalities_are_merged_and_taken_apart(collection: list[Image]) -> None:
    mr = make_image(modality="MR")
    index_next_batch()
    edit = classes.merge_modalities(Modality.objects.get(pk="MR"), Modality.objects.get(pk="CT"), None)
    query = ask()
    assert [code for code, _ in query.modality_probabilities] == ["CT"]
    assert mr.pk in found(query, SearchOptions(scope=Scope.ALL, modality="CT"))
    assert ModalityName.objects.get(name="MR").modality_id == "CT"
    assert undo(edit, None) == 1
    mr.refresh_from_db()
    assert mr.modality_id == "MR"
    assert len(ask(2).modality_probabilities) == 2


def test_unknown_modalities_wait_and_are_mapped_once() -> None:
    batch = open_batch("ward", "dicom", None)
    receive_file(batch, "a.png", png_bytes(seed=1), Claims(modality_code="x-ray"))
    receive_file(batch, "b.dcm", dicom_bytes(seed=2, Modality="OT"))
    receive_file(batch, "c.dcm", dicom_bytes(seed=3, Modality="MR"))
    import_queued()
    modalities = lambda: list(Image.objects.order_by("pk").values_list("modality", flat=True))  # noqa: E731
    assert modalities() == [None, None, "MR"]
    assert [(name.name, number) for name, number in waiting_modalities()] == [("OT", 1), ("XRAY", 1)]
    decide_modality(ModalityName.objects.get(name="XRAY"), Modality.objects.create(code="DX"), None)
    receive_file(batch, "d.png", png_bytes(seed=4), Claims(modality_code="X-Ray"))
    import_queued()
    assert modalities() == ["DX", None, "MR", "DX"]
    assert [name.name for name, _ in waiting_modalities()] == ["OT"]


def test_modalities_are_decided_on_through_the_page(client_of: ClientOf) -> None:
    receive_file(open_batch("ward", "dicom", None), "a.png", png_bytes(), Claims(modality_code="x-ray"))
    import_queued()
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        data = {"name": "XRAY", "meaning": "class"}
        assert client_of(role).post("/imports/names/modality/", data).status_code == expected
    client = client_of("curator")
    assert "1 modality waits for a decision" in client.get("/imports/").content.decode()
    data = {"name": "XRAY", "meaning": "modality", "modality": "DX"}
    assert "Choose a modality" in client.post("/imports/names/modality/", data, follow=True).content.decode()
    Modality.objects.create(code="DX")
    page = client.post("/imports/names/modality/", data, follow=True).content.decode()
    assert "From now on XRAY means DX." in page
    assert Image.objects.get().modality_id == "DX"


def test_pages_by_role(client_of: ClientOf) -> None:
    make_image(organ="brain", modality="CT")
    pk = organ("brain").pk
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        client = client_of(role)
        for url in ("", f"organ/{pk}/", "modality/CT/"):
            assert client.get(f"/imports/classes/{url}").status_code == expected
        for url in ("organ/add/", f"organ/{pk}/", f"organ/{pk}/merge/", "organ/names/1/", "undo/1/"):
            assert client.post(f"/imports/classes/{url}", {"name": "x", "into": pk}).status_code == expected
    assert list(OrganClass.objects.values_list("name", flat=True)) == ["brain"]


def test_classes_through_the_page(client_of: ClientOf) -> None:
    make_image(organ="brain", modality="CT")
    client = client_of("curator")

    def post(url: str, **data: str) -> str:
        answer = client.post(f"/imports/classes/{url}", data, follow=True)
        return answer.content.decode()

    assert "There is lung now." in post("organ/add/", name="Lung")
    assert "There is an organ lung already." in post("organ/add/", name="lung")
    assert "There is DX now." in post("modality/add/", name="dx")
    lung, brain = organ("lung").pk, organ("brain").pk
    assert client.post(f"/imports/classes/organ/{lung}/", {"name": "brain"}).status_code == 422
    assert "Saved." in post(f"organ/{lung}/", name="lungs", description="Both of them.")
    assert "Both of them." in client.get("/imports/classes/").content.decode()
    assert "Saved." in post("modality/CT/", name="Computed tomography")
    assert "Choose what to merge it into." in post(f"organ/{brain}/merge/")
    assert "brain is lungs now." in post(f"organ/{brain}/merge/", into=str(lung))
    assert str(Image.objects.get().organ) == "lungs"
    assert "Undone: 1 label given back." in post(f"undo/{LabelEdit.objects.get().pk}/")
    assert str(Image.objects.get().organ) == "brain"
    name = OrganName.objects.get(name="lung").pk
    assert "lung means brain now." in post(f"organ/names/{name}/", to=str(brain))
    assert "lung is no name of it any more." in post(f"organ/names/{name}/")
    assert not OrganName.objects.exists()


def test_a_name_that_a_model_version_learnt_stays(client_of: ClientOf, model_version: ModelVersion) -> None:
    make_image(organ="brain")
    classes.rename_organ(organ("brain"), "cerebrum", None)
    name = OrganName.objects.get(name="brain")
    answer = client_of("curator").post(f"/imports/classes/organ/names/{name.pk}/", follow=True)
    assert "A model version has learnt brain under this name" in answer.content.decode()
    assert OrganName.objects.get() == name


def test_probabilities_of_outputs_of_one_class_add_up() -> None:
    names, added = by_class(["a", "b", "a"], np.array([[0.1, 0.5, 0.4]], np.float32))
    assert names == ["a", "b"]
    np.testing.assert_allclose(added, [[0.5, 0.5]])


@pytest.fixture
def superuser(db: None) -> Client:
    """Nobody else may delete classes."""
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def delete(client: Client, each: OrganClass | Modality) -> str:
    url = f"/admin/ingest/{each._meta.model_name}/{each.pk}/delete/"
    return client.post(url, {"post": "yes"}, follow=True).content.decode()


@pytest.mark.parametrize("trashed", [False, True])
def test_a_class_in_use_is_not_deleted_but_merged(superuser: Client, trashed: bool) -> None:
    images = [make_image() for _ in range(3)]
    if trashed:
        put_into_trash(images[0].dataset, None)
    some = ", 3 of them in the trash" if trashed else ""
    for each, page in (
        (organ("brain"), f"/imports/classes/organ/{organ('brain').pk}/"),
        (Modality.objects.get(), "/imports/classes/modality/CT/"),
    ):
        kind = each._meta.verbose_name
        shown = delete(superuser, each)
        assert f"3 images are labelled {each}{some}: it cannot be deleted." in shown
        assert f'<a href="{page}#merge">Merge it into another {kind}</a> instead.' in shown
        assert superuser.get(page).status_code == 200
        assert type(each)._default_manager.filter(pk=each.pk).exists()


def test_a_class_that_a_model_version_has_learnt_is_not_deleted(
    superuser: Client, model_version: ModelVersion
) -> None:
    image = make_image(organ=None)
    index_next_batch()
    described = Embedding.objects.get(image=image)
    classes.rename_organ(described.predicted_organ, "another", None)
    assert "A model version has learnt another: it cannot be deleted." in delete(superuser, organ("another"))
    assert Embedding.objects.filter(pk=described.pk).exists()


def test_selected_classes_are_deleted_where_none_is_in_use(superuser: Client) -> None:
    make_image()
    unused = [classes.add_organ(name, None) for name in ("chest", "hand")]
    data = {"action": "delete_selected", "post": "yes"}

    def delete_selected(*organs: OrganClass) -> str:
        chosen = data | {"_selected_action": [each.pk for each in organs]}
        return superuser.post("/admin/ingest/organclass/", chosen, follow=True).content.decode()

    assert "1 image is labelled brain: it cannot be deleted." in delete_selected(organ("brain"), *unused)
    assert OrganClass.objects.count() == 3
    assert "Successfully deleted 2 organs" in delete_selected(*unused)
    assert delete(superuser, classes.add_organ("foot", None))
    assert [each.name for each in OrganClass.objects.all()] == ["brain"]


@pytest.mark.parametrize("role", ["admin", "curator", "clinician"])
def test_roles_delete_no_classes(client_of: ClientOf, role: str) -> None:
    shown = client_of(role).post(
        f"/admin/ingest/organclass/{classes.add_organ('hand', None).pk}/delete/", {"post": "yes"}
    )
    assert shown.status_code == (302 if role == "clinician" else 403)  # to signing in to the admin
    assert OrganClass.objects.exists()
