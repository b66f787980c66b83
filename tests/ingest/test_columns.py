"""Manifests whose columns have other names than ours: guessed, said once, kept with the data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client

from ingest.importing import import_queued
from ingest.labels import ManifestError, columns_among, read_manifest
from ingest.models import Dataset, Image
from tests.factories import png_bytes, zip_bytes

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]
ODD = b"filename,diagnosis,site,mrn\na.png,Heart,Ghent,7\n"
SAID = {"organ": "diagnosis", "group_id": "mrn"}


@pytest.mark.parametrize(
    ("names", "said", "expected"),
    [
        (["path", "organ", "split"], {}, ["path", "organ", "", "", "split"]),
        (["File Name", "Label", "site", "Patient_ID"], {}, ["File Name", "Label", "", "Patient_ID", ""]),
        (["image", "organ", "label", "Modality"], {}, ["image", "organ", "Modality", "", ""]),
        (["file", "organ", "label"], {"organ": "label"}, ["file", "label", "", "", ""]),
        (
            ["path", "organ"],
            {"organ": "diagnosis"},
            ["path", "organ", "", "", ""],
        ),  # said for another one
    ],
)
def test_what_columns_mean(names: list[str], said: dict[str, str], expected: list[str]) -> None:
    assert list(columns_among(names, said).values()) == expected


def test_a_column_that_is_not_there() -> None:
    sentence = r"lacks the column diagnosis and the column mrn\. Its columns are: path, b\."
    with pytest.raises(ManifestError, match=sentence):
        columns_among(["path", "b"], SAID)


def test_claims_and_what_was_not_used() -> None:
    manifest = read_manifest(ODD, columns=SAID)
    claims = manifest.claims["a.png"]
    assert (claims.organ_name, claims.group, claims.split) == ("Heart", "7", "")
    assert manifest.unused == ["site"]


def post(client: Client, manifest: bytes, seed: int, **said: str) -> Any:
    files = [SimpleUploadedFile("manifest.csv", manifest), SimpleUploadedFile("a.png", png_bytes(seed=seed))]
    data = {"dataset": "ward", "label_source": "manifest", "makes_organs": "on", "loose_files": files}
    answer = client.post("/imports/new/", {**data, **said}, follow=True)
    import_queued()
    return answer


def organs() -> list[str | None]:
    return list(Image.objects.order_by("pk").values_list("organ__name", flat=True))


def test_columns_are_said_once_on_the_page(client_of: ClientOf) -> None:
    client = client_of("curator")
    refused = post(client, ODD, 1)
    assert refused.status_code == 422
    page = refused.content.decode()
    assert "The manifest lacks the column organ. Its columns are: filename, diagnosis, site, mrn." in page
    assert '<details id="columns" class="field" open>' in page
    assert not Dataset.objects.exists()

    taken = post(client, ODD, 1, **{"column-organ": "diagnosis", "column-group_id": "mrn"})
    assert "Columns of the manifest that were not used: site." in taken.content.decode()
    assert Dataset.objects.get().manifest_columns == SAID
    assert post(client, ODD, 2).status_code == 200  # as it was said
    assert organs() == ["heart", "heart"]
    groups = set(Image.objects.values_list("group_key", flat=True))
    assert len(groups) == 1

    url = f"/imports/datasets/{Dataset.objects.get().pk}/"
    assert 'value="diagnosis"' in client.get(url).content.decode()
    client.post(url, {"column-organ": "site"})
    assert Dataset.objects.get().manifest_columns == {"organ": "site"}


def test_inside_an_archive_sent_by_rest(client_of: ClientOf) -> None:
    client = client_of("curator")
    asked = {"dataset": "ward", "label_source": "manifest", "makes_organs": True, "manifest_columns": SAID}
    made = client.post("/api/v1/batches/", asked, content_type="application/json").json()
    assert made["manifest_columns"] == SAID
    content = SimpleUploadedFile("in.zip", zip_bytes({"manifest.csv": ODD, "a.png": png_bytes()}))
    assert client.post(f"/api/v1/batches/{made['id']}/files/", {"file": content}).status_code == 201
    import_queued()
    assert organs() == ["heart"]
    wrong = {**asked, "manifest_columns": {"colour": "x"}}
    answer = client.post("/api/v1/batches/", wrong, content_type="application/json")
    assert (answer.status_code, answer.json()) == (400, {"manifest_columns": ["There is no column colour."]})


def test_by_command(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "manifest.csv").write_bytes(ODD)
    (tmp_path / "in" / "a.png").write_bytes(png_bytes())
    options: dict[str, Any] = {"dataset": "ward", "new_organs": True, "json": True}
    with pytest.raises(CommandError, match="lacks the column organ"):
        call_command("import_images", str(tmp_path / "in"), **options)
    for wrong in ("colour=x", "organ"):
        with pytest.raises(CommandError, match="A column is OURS=THEIRS"):
            call_command("import_images", str(tmp_path / "in"), column=[wrong], **options)
    call_command("import_images", str(tmp_path / "in"), column=["organ=diagnosis", "group_id=mrn"], **options)
    assert organs() == ["heart"]
    assert Dataset.objects.get().manifest_columns == SAID
