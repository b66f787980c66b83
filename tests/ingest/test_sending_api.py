"""Files sent in parts by other systems, with a real client and a server that is killed; by whom."""

from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import requests
from knox.models import AuthToken

from ingest.importing import import_queued
from ingest.models import PendingFile, UploadBatch
from tests.browser.services import Services
from tests.factories import dicom_bytes, make_user, png_bytes
from tests.processes import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

API = "/api/v1"
PART = "application/offset+octet-stream"


@pytest.fixture
def web(media_root: Path, tmp_path: Path) -> Iterator[Services]:
    """The web server, and no worker."""
    services = Services(media_root, tmp_path)
    services.start({"web"})
    yield services
    services.stop()


class Sender:
    """Another system, with a token: as little of the tus protocol as it takes."""

    def __init__(self, web: Services, role: str | None) -> None:
        self.address, self.session = web.address, requests.Session()
        self.session.headers["Tus-Resumable"] = "1.0.0"
        if role:
            self.session.headers["Authorization"] = f"Token {AuthToken.objects.create(make_user(role))[1]}"

    def ask(self, method: str, url: str, **more: Any) -> requests.Response:
        return self.session.request(method, self.address + url, timeout=60, **more)

    def batch(self, **fields: Any) -> str:
        """The address of a new batch."""
        manifest = fields.pop("manifest", None)
        files = {"manifest": ("manifest.csv", manifest)} if manifest else None
        answer = self.ask("POST", f"{API}/batches/", data={"dataset": "ward", **fields}, files=files)
        assert answer.status_code == 201, answer.text
        return f"{API}/batches/{answer.json()['id']}/"

    def create(self, batch: str, path: str, size: int, **said: str) -> requests.Response:
        pairs = {"path": path, **said}
        metadata = ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in pairs.items())
        return self.ask(
            "POST", f"{batch}uploads/", headers={"Upload-Length": str(size), "Upload-Metadata": metadata}
        )

    def offset(self, url: str) -> int:
        return int(self.ask("HEAD", url).headers["Upload-Offset"])

    def part(self, url: str, offset: int, content: bytes) -> requests.Response:
        headers = {"Upload-Offset": str(offset), "Content-Type": PART}
        return self.ask("PATCH", url, headers=headers, data=content)

    def go_on(self, url: str, content: bytes, part_bytes: int = 4000) -> None:
        while (offset := self.offset(url)) < len(content):
            assert self.part(url, offset, content[offset : offset + part_bytes]).status_code == 204

    def begin_part(self, url: str, offset: int, content: bytes, announced: int) -> HTTPConnection:
        """A part of which only the beginning is sent yet."""
        connection = HTTPConnection(self.address.removeprefix("http://"), timeout=60)
        connection.putrequest("PATCH", url)
        for name, value in self.session.headers.items():
            if name in ("Authorization", "Tus-Resumable"):
                connection.putheader(name, str(value))
        connection.putheader("Upload-Offset", str(offset))
        connection.putheader("Content-Type", PART)
        connection.putheader("Content-Length", str(announced))
        connection.endheaders(content)
        return connection


def test_a_batch_is_made_sent_in_parts_and_followed_though_all_is_killed(web: Services) -> None:
    sender, content = Sender(web, "integration"), dicom_bytes()
    batch = sender.batch(files_to_come=3, manifest=b"path,organ\na.dcm,heart\nb.png,liver\n")
    url = sender.create(batch, "a.dcm", len(content)).headers["Location"]
    assert url.startswith(f"{API}/uploads/")
    assert sender.part(url, 0, content[:1000]).headers["Upload-Offset"] == "1000"

    sender.begin_part(url, 1000, content[1000:1500], 2000).close()  # the sender is killed
    wait_until(lambda: sender.offset(url) == 1500, "what came of the part")

    open_part = sender.begin_part(url, 1500, content[1500:2000], 2000)
    with web.dead("web"), pytest.raises(requests.ConnectionError):
        sender.offset(url)
    open_part.close()
    assert sender.offset(url) == 1500  # a part whose server was killed is sent again
    assert sender.ask("GET", batch).json()["state"] == "importing"

    again = Sender(web, None)  # after a restart it knows its token and the batch
    again.session = sender.session
    state = again.ask("GET", f"{batch}uploads/").json()
    assert (state["files_to_come"], state["files_to_send"]) == (3, 3)
    assert [(file["url"], file["path"], file["offset"]) for file in state["files"]] == [(url, "a.dcm", 1500)]
    again.go_on(url, content)
    small = png_bytes()
    again.go_on(again.create(batch, "b.png", len(small)).headers["Location"], small)

    closed = again.ask("POST", f"{batch}close/").json()
    assert (closed["files_to_come"], closed["files"]["queued"]) == (0, 2)
    import_queued()
    followed = again.ask("GET", batch).json()
    assert (followed["state"], followed["files"]["imported"]) == ("finished", 2)
    files = again.ask("GET", f"{batch}files/").json()["results"]
    assert [(file["path"], file["organ_name"]) for file in files] == [("a.dcm", "heart"), ("b.png", "liver")]
    assert again.ask("HEAD", url).status_code == 404  # it is in the ledger


def test_closing_tells_what_was_not_sent(web: Services) -> None:
    sender = Sender(web, "curator")
    batch = sender.batch(files_to_come=5)
    url = sender.create(batch, "a.png", 10, filename="b.png").headers["Location"]
    sender.part(url, 0, b"abc")
    assert sender.ask("POST", f"{batch}close/").json()["state"] == "finished"
    files = sender.ask("GET", f"{batch}files/").json()["results"]
    assert [(file["path"], file["reason_code"]) for file in files] == [("a.png", "not_sent")]
    late = sender.create(batch, "c.png", 10)
    assert (late.status_code, late.json()) == (409, {"detail": "All files of this import have been sent."})
    UploadBatch.objects.update(source="/somewhere")
    assert sender.ask("POST", f"{batch}close/").status_code == 400


def test_who_may_send(web: Services) -> None:
    owner = Sender(web, "integration")
    batch = owner.batch(files_to_come=2)
    url = owner.create(batch, "a.png", 10).headers["Location"]
    roles = {"integration": 404, "curator": 404, "admin": 404, "clinician": 403, "nobody": 403, None: 401}
    for role, expected in roles.items():
        other = Sender(web, role)
        assert other.ask("HEAD", url).status_code == expected, role
        assert other.part(url, 0, b"abc").status_code == expected
        assert other.ask("GET", f"{batch}uploads/").status_code == expected
        assert other.create(batch, "b.png", 10).status_code == expected
        if expected != 404:
            assert other.ask("POST", f"{batch}close/").status_code == expected
            announced = {"dataset": "ward", "files_to_come": 1}
            assert other.ask("POST", f"{API}/batches/", data=announced).status_code == expected
    assert owner.offset(url) == 0
    assert PendingFile.objects.count() == 1


def test_what_goes_wrong_is_told(web: Services) -> None:
    sender = Sender(web, "integration")
    for fields, field, sentence in [
        ({"files_to_come": -1}, "files_to_come", "greater than or equal to 0"),
        ({"files_to_come": 1, "manifest": b"path\na.png\n"}, "manifest", "lacks the column organ"),
        ({"files_to_come": 1, "manifest": b"\xff\xfe"}, "manifest", "not a CSV file"),
        ({"manifest": b"path,organ\na.png,heart\n"}, "files_to_come", "how many files"),
    ]:
        manifest = fields.pop("manifest", None)
        files = {"manifest": ("manifest.csv", manifest)} if manifest else None
        answer = sender.ask("POST", f"{API}/batches/", data={"dataset": "ward", **fields}, files=files)
        assert (answer.status_code, list(answer.json())) == (400, [field])
        assert sentence in answer.text
    assert not UploadBatch.objects.exists()
    batch = sender.batch(files_to_come=1)
    options = sender.ask("OPTIONS", f"{batch}uploads/")
    assert (options.status_code, options.headers["Tus-Version"]) == (204, "1.0.0")
    assert sender.create(batch, "", 10).json() == {"detail": "The file needs a path."}
    url = sender.create(batch, "", 10, filename="a.png").headers["Location"]
    assert PendingFile.objects.get().path == "a.png"
    assert sender.part(url, 5, b"x").status_code == 409
    assert sender.part(url, 0, b"x" * 11).status_code == 413
    no_part = sender.ask(
        "PATCH", url, headers={"Upload-Offset": "0", "Content-Type": "text/plain"}, data=b"x"
    )
    assert no_part.status_code == 415
    other_version = sender.ask("HEAD", url, headers={"Tus-Resumable": "0.2.2"})
    assert (other_version.status_code, other_version.headers["Tus-Version"]) == (412, "1.0.0")
