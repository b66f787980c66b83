"""The REST API of importing, by every role."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from ingest.importing import import_queued
from ingest.models import Dataset, UploadBatch, UploadedFile
from ingest.pseudonyms import keyed_hash
from ingest.receiving import open_batch, receive_file
from tests.factories import dicom_bytes, make_image, png_bytes, tar_bytes, zip_bytes
from tests.ingest.test_import_images import MANIFEST

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]
API = "/api/v1"
FORBIDDEN = {401, 403}


def posted(name: str, content: bytes) -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content)


def make_batch(client: Client, **fields: Any) -> dict[str, Any]:
    response = client.post(f"{API}/batches/", {"dataset": "ward", **fields})
    assert response.status_code == 201, response.content
    batch: dict[str, Any] = response.json()
    return batch


def test_batches_by_role(client_of: ClientOf) -> None:
    pk = open_batch("ward", "dicom", None).pk
    for role, allowed in {
        "curator": True,
        "integration": True,
        "clinician": False,
        "nobody": False,
        None: False,
    }.items():
        client = client_of(role)
        codes = {
            client.get(f"{API}/batches/").status_code,
            client.get(f"{API}/batches/{pk}/").status_code,
            client.get(f"{API}/batches/{pk}/files/").status_code,
        }
        assert codes == {200} if allowed else codes <= FORBIDDEN, role
        created = client.post(f"{API}/batches/", {"dataset": "ward"}).status_code
        assert created == 201 if allowed else created in FORBIDDEN, role
        sent = client.post(f"{API}/batches/{pk}/files/", {"file": posted("a.png", png_bytes())}).status_code
        assert sent == 201 if allowed else sent in FORBIDDEN, role
    assert UploadBatch.objects.count() == 3
    assert UploadedFile.objects.count() == 2


def test_cancel_retry_and_report_by_role(client_of: ClientOf) -> None:
    batch = open_batch("ward", "dicom", None)
    receive_file(batch, "a.png", png_bytes())
    receive_file(batch, "b.txt", b"no image")
    url = f"{API}/batches/{batch.pk}"
    for role in ("clinician", "nobody", None):
        client = client_of(role)
        codes = [client.post(f"{url}/{name}/").status_code for name in ("cancel", "retry")]
        assert {*codes, client.get(f"{url}/report/").status_code} <= FORBIDDEN
    client = client_of("integration")
    assert client.post(f"{url}/cancel/").json()["files"]["rejected"] == 2
    assert client.post(f"{url}/retry/", {"reason_code": "damaged"}).json()["files"]["queued"] == 0
    one = batch.files.get(path="b.txt").pk
    assert client.post(f"{url}/retry/", {"file": one}).json()["files"]["queued"] == 1
    assert client.post(f"{url}/retry/").json()["files"]["queued"] == 2
    import_queued()
    assert client.get(f"{url}/files/?state=rejected").json()["results"][0]["is_retryable"] is True
    report = b"".join(client.get(f"{url}/report/").streaming_content)  # type: ignore[attr-defined]
    assert b"b.txt,rejected,not_an_image" in report
    assert client.post(f"{url}/retry/", {"file": "x"}).status_code == 400


def test_collection_lists_by_role(client_of: ClientOf) -> None:
    make_image(organ="brain", modality="CT")
    for name in ("organs", "modalities", "datasets"):
        for role, allowed in {"clinician": True, "curator": True, "nobody": False, None: False}.items():
            code = client_of(role).get(f"{API}/{name}/").status_code
            assert code == 200 if allowed else code in FORBIDDEN, (name, role)
        assert client_of("admin").post(f"{API}/{name}/", {"name": "x"}).status_code in {403, 405}


def test_collection_lists_count_their_images(client_of: ClientOf) -> None:
    for organ, modality in [("brain", "CT"), ("brain", "MR"), ("chest", "CT")]:
        make_image(organ=organ, modality=modality)
    client = client_of("clinician")
    assert client.get(f"{API}/organs/").json()["results"] == [
        {"name": "brain", "images": 2},
        {"name": "chest", "images": 1},
    ]
    assert [row["images"] for row in client.get(f"{API}/modalities/").json()["results"]] == [2, 1]
    assert client.get(f"{API}/datasets/").json()["results"][0]["images"] == 3


def test_batch_from_creation_to_its_end(client_of: ClientOf) -> None:
    client = client_of("integration")
    batch = make_batch(client)
    assert (batch["dataset"], batch["label_source"], batch["state"]) == ("ward", "dicom", "empty")
    url = f"{API}/batches/{batch['id']}/"
    files = [
        posted("a.dcm", dicom_bytes()),
        posted("b.dcm", dicom_bytes()),
        posted("c.txt", b"x"),
        posted("d", b""),
    ]
    response = client.post(f"{url}files/", {"file": files})
    assert response.status_code == 201
    assert [row["state"] for row in response.json()] == ["queued", "queued", "queued", "rejected"]
    assert client.get(url).json()["state"] == "importing"
    import_queued()
    ended = client.get(url).json()
    assert ended["state"] == "finished"
    assert ended["files"] == {
        "total": 4, "queued": 0, "reading": 0, "imported": 1, "duplicate": 1, "left_out": 0, "rejected": 2,
        "quarantined": 0, "checked": 0,
    }  # fmt: skip
    rejected = client.get(f"{url}files/", {"state": "rejected"}).json()
    assert rejected["count"] == 2
    assert {row["reason_code"] for row in rejected["results"]} == {"not_an_image", "empty_file"}
    (imported,) = client.get(f"{url}files/", {"state": "imported"}).json()["results"]
    assert len(imported["image_ids"]) == 1


def test_labels_beside_the_files(client_of: ClientOf) -> None:
    client = client_of("curator")
    url = f"{API}/batches/{make_batch(client)['id']}/files/"
    files = [posted("a.png", png_bytes(seed=1)), posted("b.png", png_bytes(seed=2))]
    data = {
        "file": files,
        "organ": ["Heart", ""],
        "modality": "MR",
        "group_id": ["p1", "p2"],
        "split": "test",
    }
    assert client.post(url, data).status_code == 201
    rows = UploadedFile.objects.values_list("organ_name", "modality_code", "group_key", "split")
    assert list(rows) == [
        ("heart", "MR", keyed_hash("p1"), "test"),
        ("", "MR", keyed_hash("p2"), "test"),
    ]


def test_paths_label_by_folder(client_of: ClientOf) -> None:
    client = client_of("curator")
    url = f"{API}/batches/{make_batch(client, label_source='folder')['id']}/files/"
    client.post(url, {"file": posted("a.png", png_bytes()), "path": "../set/heart/a.png"})
    assert list(UploadedFile.objects.values_list("path", "organ_name")) == [("set/heart/a.png", "heart")]


@pytest.mark.parametrize("pack", [zip_bytes, tar_bytes])
def test_archive_is_unpacked(client_of: ClientOf, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    client = client_of("curator")
    url = f"{API}/batches/{make_batch(client, label_source='manifest')['id']}/files/"
    content = pack({"manifest.csv": MANIFEST.encode(), "x/a.png": png_bytes()})
    rows = client.post(url, {"file": posted("upload", content)}).json()
    assert sorted((row["path"], row["reason_code"]) for row in rows) == [
        ("gone.png", "missing_file"),
        ("x/a.png", ""),
        ("x/b.png", "missing_file"),
    ]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({}, "file"),
        ({"organ": ["a", "b", "c"]}, "organ"),
        ({"path": "one.png"}, "path"),
        ({"split": "validation"}, "split"),
    ],
)
def test_bad_requests_say_which_field(client_of: ClientOf, data: dict[str, Any], field: str) -> None:
    client = client_of("curator")
    url = f"{API}/batches/{make_batch(client)['id']}/files/"
    files = {"file": [posted("a.png", png_bytes()), posted("b.png", png_bytes())]} if data else {}
    response = client.post(url, {**files, **data})
    assert response.status_code == 400
    assert field in response.json()
    assert not UploadedFile.objects.exists()


def test_bad_manifest_is_a_bad_request(client_of: ClientOf) -> None:
    client = client_of("curator")
    url = f"{API}/batches/{make_batch(client)['id']}/files/"
    response = client.post(url, {"file": posted("manifest.csv", b"path\na.png")})
    assert response.json() == {"file": "The manifest lacks the column organ. Its columns are: path."}


@pytest.mark.parametrize(
    "data", [{"dataset": ""}, {"dataset": "x" * 121}, {"dataset": "x", "label_source": "stars"}, {}]
)
def test_batch_that_cannot_be_made(client_of: ClientOf, data: dict[str, str]) -> None:
    assert client_of("curator").post(f"{API}/batches/", data).status_code == 400
    assert not UploadBatch.objects.exists()


def test_ledger_asks_the_same_number_of_queries_for_many(
    client_of: ClientOf, django_assert_max_num_queries: Any
) -> None:
    batch = open_batch("ward", "dicom", None)
    for seed in range(6):
        receive_file(batch, f"{seed}.png", png_bytes(seed=seed))
    import_queued()
    client = client_of("curator")
    with django_assert_max_num_queries(9):
        assert client.get(f"{API}/batches/{batch.pk}/files/").json()["count"] == 6


def test_the_slices_of_a_data_set(client_of: ClientOf) -> None:
    client = client_of("integration")
    made = make_batch(client, slice_choice="every_nth", slice_step=3)
    assert (made["slice_choice"], made["slice_step"]) == ("every_nth", 3)
    assert (
        make_batch(client, slice_choice="all")["slice_choice"] == "every_nth"
    )  # it is there, and keeps its own
    [listed] = client.get(f"{API}/datasets/").json()["results"]
    url = f"{API}/datasets/{listed['id']}/"
    assert (listed["slice_choice"], listed["slice_step"]) == ("every_nth", 3)

    def change(who: Client, **fields: Any) -> Any:
        return who.patch(url, fields, content_type="application/json")

    assert change(client, slice_step=5).json()["slice_step"] == 5
    assert change(client, slice_choice="all", name="other", images=7).json() == {
        **listed,
        "slice_choice": "all",
        "slice_step": 5,
    }
    for fields in ({"slice_choice": "few"}, {"slice_step": 1}, {"slice_step": 1001}):
        answer = change(client, **fields)
        assert (answer.status_code, list(answer.json())) == (400, list(fields))
        batch = client.post(f"{API}/batches/", {"dataset": "new", **fields})
        assert (batch.status_code, list(batch.json())) == (400, list(fields))
    for role, reads, sets in [("curator", 200, 200), ("clinician", 200, 403), ("nobody", 403, 403)]:
        other = client_of(role)
        assert (other.get(url).status_code, change(other, slice_choice="all").status_code) == (reads, sets)
    assert {client_of(None).get(url).status_code, change(client_of(None)).status_code} == {401}
    assert client.put(url, {}, content_type="application/json").status_code == 405
    Dataset.objects.update(trashed_at=timezone.now())
    assert change(client, slice_choice="all").status_code == 404
