"""Large imports in a real browser: the server dies, the page is closed, and all comes in."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ingest.models import FileState, Image, PendingFile, UploadBatch
from tests import factories
from tests.browser.conftest import OpenPage
from tests.browser.services import Services
from tests.browser.test_importing import expect_done, import_files, row
from tests.browser.watch import Watch
from tests.processes import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("model_version")]
LARGE = 48 * 2**20  # three parts
LOST = re.compile(r"^(request failed|console: Failed to load resource)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest, two images, and a large file that is none."""
    files = {
        "manifest.csv": b"path,organ\na.png,heart\nin/b.png,liver\n",
        "a.png": factories.png_bytes(seed=301),
        "in/b.png": factories.png_bytes(seed=302),
        "large.bin": os.urandom(LARGE),
        ".hidden": b"x",
    }
    for name, content in files.items():
        path = tmp_path / "atlas" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "atlas"


def slow_down(page: Page, bytes_per_second: float) -> None:
    """Limit what the page sends; -1 for no limit."""
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1}
    session = page.context.new_cdp_session(page)
    session.send("Network.emulateNetworkConditions", {**conditions, "uploadThroughput": bytes_per_second})


def large_file() -> PendingFile | None:
    return PendingFile.objects.filter(path__endswith="large.bin").first()


def parts_come() -> bool:
    file = large_file()
    return file is not None and 0 < file.received_bytes < LARGE


def begin_slowly(page: Page, folder: Path) -> None:
    """Fill in the form and wait until a part of the large file has come."""
    slow_down(page, 8 * 2**20)
    page.get_by_label("Data set").fill("atlas")
    page.get_by_label("a manifest.csv").check()
    page.get_by_label("A folder").set_input_files(folder)
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("heading", name="Sending")).to_be_visible()
    wait_until(parts_come, "the first part")


def test_import_survives_a_dead_server_and_a_closed_page(
    open_page: OpenPage, services: Services, folder: Path, watch: Watch
) -> None:
    page = open_page("curator", "/imports/new/")
    begin_slowly(page, folder)
    expect(page.locator("#sending [role=status]")).to_contain_text(re.compile(r"2 of 3 files sent · .* MB"))
    with services.dead("web"):
        expect(page.get_by_text("The connection is lost.")).to_be_visible()
    expect(page.get_by_text("The connection is lost.")).to_be_hidden()
    batch = UploadBatch.objects.get(dataset__name="atlas")
    expect(page).to_have_url(re.compile(rf"/imports/{batch.pk}/$"))
    page.close()
    came = large_file()
    assert came is not None
    assert 0 < came.received_bytes < LARGE
    assert all(LOST.match(problem) for problem in watch.problems), watch.problems
    watch.problems.clear()

    page = open_page("curator", f"/imports/{batch.pk}/")
    expect(page.get_by_text("2 of 3 files have come.")).to_be_visible()
    page.get_by_label("Files, or an archive").set_input_files(folder / "a.png")
    page.get_by_role("button", name="Go on", exact=True).click()
    expect(page.get_by_text("These are not the files that are missing: one file")).to_be_visible()
    page.get_by_label("Files, or an archive").set_input_files([])
    requests: list[tuple[str, str]] = []
    page.on("request", lambda request: requests.append((request.method, request.url)))
    page.get_by_label("A folder").set_input_files(folder)
    page.get_by_role("button", name="Go on", exact=True).click()

    expect_done(page, 3)
    expect(page.get_by_role("heading", name="Go on sending")).to_have_count(0)
    expect(row(page, "atlas/large.bin")).to_contain_text("rejected")
    assert [method for method, url in requests if "/sending/" in url][:3] == ["GET", "HEAD", "PATCH"]
    assert not [url for method, url in requests if method == "POST"]
    labels = Image.objects.filter(dataset__name="atlas").values_list("source_path", "incoming_organ")
    assert set(labels) == {("atlas/a.png", "heart"), ("atlas/in/b.png", "liver")}
    assert batch.files.get(path="atlas/large.bin").size_bytes == LARGE
    assert not PendingFile.objects.exists()


def test_signed_out_meanwhile_is_told_and_gone_on_with(
    open_page: OpenPage, people: dict[str, Any], watch: Watch, tmp_path: Path
) -> None:
    watch.expect(401)
    page = open_page("curator", "/imports/new/")
    page.get_by_label("Data set").fill("signed-out")
    page.get_by_label("Files, or an archive (zip, tar)").set_input_files(
        [factories_file(311, "a.png"), factories_file(312, "b.png")]
    )
    cookies = page.context.cookies()
    page.route(
        "**/imports/*/sending/",
        lambda route: (page.context.clear_cookies(name="sessionid"), route.continue_()),
    )
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("a.png: You are signed out.")).to_be_visible()
    page.unroute("**/imports/*/sending/")
    page.context.add_cookies(cookies)  # type: ignore[arg-type]
    page.get_by_role("button", name="Try again").click()
    expect_done(page, 2)


def factories_file(seed: int, name: str) -> Any:
    return {"name": name, "mimeType": "image/png", "buffer": factories.png_bytes(seed=seed)}


def test_rest_is_done_without(open_page: OpenPage, folder: Path) -> None:
    page = open_page("curator", "/imports/new/")
    begin_slowly(page, folder)
    page.reload()
    page.get_by_role("button", name="Go on without it").click()
    expect(page.get_by_text("complete without 1 file that did not come")).to_be_visible()
    expect(row(page, "atlas/large.bin")).to_contain_text("The file was not sent to its end.")


def test_archive_alone_is_the_root_of_its_members(open_page: OpenPage) -> None:
    packed = factories.zip_bytes({"spleen/a.png": factories.png_bytes(seed=321)})
    file = {"name": "in.zip", "mimeType": "application/zip", "buffer": packed}
    page = open_page("curator")
    import_files(page, file, "folder names", "zipped")
    expect_done(page, 1)
    expect(row(page, "spleen/a.png")).to_contain_text("imported")
    assert UploadBatch.objects.get(dataset__name="zipped").files.get().state == FileState.IMPORTED
