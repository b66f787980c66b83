"""The curators' pages, and the admin of the collection, by every role."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from ingest.importing import import_queued
from ingest.models import FileState, Image, UploadBatch, UploadedFile
from ingest.receiving import open_batch, receive_file
from ingest.trash import put_into_trash
from tests.factories import dicom_bytes, make_image, png_bytes, tar_bytes, zip_bytes
from tests.ingest.test_import_images import MANIFEST

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def batch() -> UploadBatch:
    batch = open_batch("ward", "dicom", None)
    receive_file(batch, "a.dcm", dicom_bytes())
    receive_file(batch, "page.html", b"<html></html>")
    receive_file(batch, "nothing.dcm", b"")
    return batch


def posted(name: str, content: bytes) -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content)


def test_pages_by_role(client_of: ClientOf, batch: UploadBatch) -> None:
    pages = [
        reverse("ingest:batch_list"),
        reverse("ingest:batch_create"),
        reverse("ingest:batch_detail", args=[batch.pk]),
    ]
    for role, expected in {"curator": 200, "admin": 200, "clinician": 403, "nobody": 403, None: 302}.items():
        client = client_of(role)
        assert [client.get(page).status_code for page in pages] == [expected] * 3, role


def test_pages_lead_back_to_imports(client_of: ClientOf, batch: UploadBatch) -> None:
    client = client_of("curator")
    names = ["batch_create", "names", "quarantine", "dataset_list"]
    for page in (*map("ingest:{}".format, names), "curation:classes", "curation:duplicates"):
        shown = client.get(reverse(page)).content.decode()
        assert '<p class="muted"><a href="/imports/">Imports</a>' in shown, page


def test_imports_lead_to_their_data_set(client_of: ClientOf, batch: UploadBatch) -> None:
    client, link = client_of("curator"), f'<a href="/imports/datasets/{batch.dataset_id}/">ward</a>'
    pages = (reverse("ingest:batch_list"), reverse("ingest:batch_detail", args=[batch.pk]))
    assert [link in client.get(page).content.decode() for page in pages] == [True, True]
    put_into_trash(batch.dataset, None)
    for page in pages:
        shown = client.get(page).content.decode()
        assert link not in shown
        assert 'ward <span class="muted">in the trash</span>' in shown


def test_upload_by_the_wrong_role_brings_nothing_in(client_of: ClientOf) -> None:
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        data = {"dataset": "ward", "label_source": "dicom", "loose_files": [posted("a.png", png_bytes())]}
        assert client_of(role).post(reverse("ingest:batch_create"), data).status_code == expected
    assert not UploadBatch.objects.exists()


def test_upload_of_good_and_bad_files(client_of: ClientOf) -> None:
    files = [
        posted("a.dcm", dicom_bytes()),
        posted("b.png", png_bytes()),
        posted("c.txt", b"x"),
        posted("d.png", b""),
    ]
    data = {"dataset": "ward", "label_source": "dicom", "loose_files": files}
    client = client_of("curator")
    response = client.post(reverse("ingest:batch_create"), data)
    batch = UploadBatch.objects.get()
    assert response.url == reverse("ingest:batch_detail", args=[batch.pk])  # type: ignore[attr-defined]
    assert batch.created_by is not None
    assert batch.files.count() == 4
    import_queued()
    counts = client.get(response.url).context["states"]  # type: ignore[attr-defined]
    assert {state: count for state, _, count in counts if count} == {"imported": 2, "rejected": 2}


def test_folder_upload_is_labelled_by_the_paths_beside_it(client_of: ClientOf) -> None:
    data = {
        "dataset": "ward",
        "label_source": "folder",
        "folder": [posted("a.png", png_bytes(seed=1)), posted("b.png", png_bytes(seed=2))],
        "paths": json.dumps(["set/heart/a.png", "set/liver/../lungs/b.png"]),
    }
    client_of("curator").post(reverse("ingest:batch_create"), data)
    assert list(UploadedFile.objects.values_list("path", "organ_name")) == [
        ("set/heart/a.png", "heart"),
        ("set/liver/lungs/b.png", "lungs"),
    ]


@pytest.mark.parametrize("pack", [zip_bytes, partial(tar_bytes, compression="xz")])
def test_archive_with_a_manifest(client_of: ClientOf, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    client = client_of("curator")
    packed = pack({"manifest.csv": MANIFEST.encode(), "x/a.png": png_bytes(seed=1)})
    data = {"dataset": "ward", "label_source": "manifest", "loose_files": [posted("in", packed)]}
    assert client.post(reverse("ingest:batch_create"), data).status_code == 302
    rows = UploadedFile.objects.filter(state=FileState.QUEUED)
    assert list(rows.values_list("path", "organ_name", "split")) == [("x/a.png", "heart", "test")]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"label_source": "dicom"}, "Choose files, a folder or an archive."),
        (
            {"label_source": "manifest", "loose_files": [posted("a.png", b"x")]},
            "There is no manifest.csv among the files.",
        ),
        (
            {"label_source": "manifest", "loose_files": [posted("manifest.csv", b"path\na.png")]},
            "The manifest lacks the column organ.",
        ),
        ({"label_source": "stars", "loose_files": [posted("a.png", b"x")]}, "Select a valid choice."),
        (
            {"label_source": "dicom", "dataset": " ", "loose_files": [posted("a.png", b"x")]},
            "This field is required.",
        ),
    ],
)
def test_upload_that_cannot_be_used_says_why(
    client_of: ClientOf, data: dict[str, Any], sentence: str
) -> None:
    response = client_of("curator").post(reverse("ingest:batch_create"), {"dataset": "ward", **data})
    assert response.status_code == 422
    assert sentence in response.content.decode()
    assert not UploadBatch.objects.exists()


def test_ledger_is_polled_until_it_is_finished(client_of: ClientOf, batch: UploadBatch) -> None:
    client, url = client_of("curator"), reverse("ingest:batch_detail", args=[batch.pk])
    page = client.get(url).content.decode()
    assert 'hx-trigger="every 1s"' in page
    import_queued()
    part = client.get(url, headers={"HX-Request": "true"}).content.decode()
    assert "hx-trigger" not in part
    assert "<html" not in part
    assert "The file is empty." in part


def test_ledger_filtered_by_state(client_of: ClientOf, batch: UploadBatch) -> None:
    import_queued()
    url = reverse("ingest:batch_detail", args=[batch.pk])
    response = client_of("curator").get(url, {"state": "rejected"})
    assert [row.path for row in response.context["page"]] == ["page.html", "nothing.dcm"]
    assert len(client_of("curator").get(url, {"state": "nonsense"}).context["page"]) == 3


def test_ledger_filtered_by_cause(client_of: ClientOf, batch: UploadBatch) -> None:
    import_queued()
    url = reverse("ingest:batch_detail", args=[batch.pk])
    response = client_of("curator").get(url, {"cause": "empty_file"})
    assert [row.path for row in response.context["page"]] == ["nothing.dcm"]
    assert "This is not a DICOM file" in response.content.decode()
    assert len(client_of("curator").get(url, {"cause": "nonsense"}).context["page"]) == 3


def test_cancel_retry_and_report_by_role(client_of: ClientOf, batch: UploadBatch) -> None:
    actions = [reverse(f"ingest:batch_{name}", args=[batch.pk]) for name in ("cancel", "retry")]
    report = reverse("ingest:batch_report", args=[batch.pk])
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        client = client_of(role)
        assert [client.post(url).status_code for url in actions] == [expected] * 2
        assert client.get(report).status_code == expected
    assert batch.files.filter(state=FileState.QUEUED).count() == 2
    client = client_of("curator")
    assert [client.get(url).status_code for url in actions] == [405, 405]
    page = client.post(actions[0], follow=True).content.decode()
    assert "Cancelled: 2 files will not be read." in page
    assert "Try 2 rejected files again" in page
    page = client.post(actions[1], {"cause": "cancelled"}, follow=True).content.decode()
    assert "2 files will be tried again." in page
    import_queued()
    row = batch.files.get(path="page.html")
    page = client.post(actions[1], {"file": row.pk}, follow=True).content.decode()
    assert "1 file will be tried again." in page
    page = client.post(actions[1], {"file": "x", "cause": "empty_file"}, follow=True).content.decode()
    assert "None of these files can be tried again" in page
    answer = client.get(report)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert b"".join(answer.streaming_content).count(b"\r\n") == 4  # type: ignore[attr-defined]


def test_ledger_is_paged(client_of: ClientOf) -> None:
    batch = open_batch("ward", "dicom", None)
    UploadedFile.objects.bulk_create(UploadedFile(batch=batch, path=f"{i:03}") for i in range(101))
    page = (
        client_of("curator").get(reverse("ingest:batch_detail", args=[batch.pk]), {"page": 2}).context["page"]
    )
    assert [row.path for row in page] == ["100"]


def test_path_is_shown_as_text(client_of: ClientOf) -> None:
    batch = open_batch("ward", "dicom", None)
    receive_file(batch, "<script>alert(1)<script>.png", b"")
    page = client_of("curator").get(reverse("ingest:batch_detail", args=[batch.pk])).content.decode()
    assert "<script>alert(1)" not in page


def test_list_asks_the_same_number_of_queries_for_many(
    client_of: ClientOf, batch: UploadBatch, django_assert_max_num_queries: Any
) -> None:
    for number in range(5):
        receive_file(open_batch(f"ward {number}", "dicom", None), "a.png", b"")
    client = client_of("curator")
    client.get(reverse("ingest:batch_list"))
    with django_assert_max_num_queries(9):
        assert client.get(reverse("ingest:batch_list")).status_code == 200


ADMIN_PAGES = ["dataset", "organclass", "modality", "image", "uploadbatch", "uploadedfile"]


@pytest.mark.parametrize("model", ADMIN_PAGES)
def test_admin_lists(
    client_of: ClientOf, batch: UploadBatch, model: str, django_assert_max_num_queries: Any
) -> None:
    for _ in range(5):
        make_image()
    url = reverse(f"admin:ingest_{model}_changelist")
    client = client_of("curator")
    client.get(url)
    with django_assert_max_num_queries(20):
        assert client.get(url).status_code == 200
    assert client_of("clinician").get(url).status_code == 302


def test_image_label_is_edited_in_the_admin(client_of: ClientOf) -> None:
    image, other = make_image(organ="brain"), make_image(organ="chest")
    url = reverse("admin:ingest_image_change", args=[image.pk])
    client = client_of("curator")
    assert reverse("search:image_preview", args=[image.pk]) in client.get(url).content.decode()
    data = {"organ": other.organ_id, "modality": "CT", "split": "test", "sha256": "0" * 64}
    assert client.post(url, data).status_code == 302
    changed = Image.objects.get(pk=image.pk)
    assert (changed.organ, changed.split, changed.sha256) == (other.organ, "test", image.sha256)


def test_ledger_is_read_only_in_the_admin(client_of: ClientOf, batch: UploadBatch) -> None:
    row = batch.files.first()
    assert row
    url = reverse("admin:ingest_uploadedfile_change", args=[row.pk])
    client = client_of("admin")
    assert client.get(url).status_code == 200
    assert client.post(url, {"state": "imported"}).status_code == 403
