"""A curator brings images in, sees what became of each file, and finds them by searching."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ingest.models import Image
from search.models import Embedding
from tests import factories
from tests.browser.actions import expect_loaded, png_file, search_with
from tests.browser.conftest import OpenPage
from tests.browser.services import Services
from tests.browser.watch import Watch
from tests.processes import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("model_version")]
PATIENT = ("Meier", "Anna", "PID-4711", "19610203", "1961-02-03")


def png(seed: int, name: str) -> Any:
    return png_file(seed, "chest", name)


def zip_file(name: str, members: dict[str, bytes]) -> Any:
    return {"name": name, "mimeType": "application/zip", "buffer": factories.zip_bytes(members)}


def import_files(
    page: Page, files: Any, labels_from: str, dataset: str, field: str = "Files, or an archive (zip, tar)"
) -> None:
    page.get_by_role("link", name="Imports").click()
    page.get_by_role("link", name="New import").click()
    page.get_by_label("Data set").fill(dataset)
    page.get_by_label(labels_from).check()
    page.get_by_label(field).set_input_files(files)
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"into {dataset}")


def row(page: Page, path: str) -> Any:
    return page.get_by_role("row").filter(has_text=path)


def expect_done(page: Page, files: int) -> None:
    expect(page.locator("#ledger [role=status]")).to_contain_text(
        re.compile(rf"{files} of {files} files? done")
    )


def test_every_file_of_a_batch_is_accounted_for(open_page: OpenPage, services: Services) -> None:
    page = open_page("curator")
    damaged = {**png(1, "cut-off.png"), "buffer": png(1, "")["buffer"][:300]}
    empty = {**png(1, "empty.png"), "buffer": b""}
    archive = zip_file("more.zip", {"liver/three.png": factories.png_bytes(seed=103)})
    files = [png(101, "one.png"), png(102, "two.png"), png(101, "one-again.png"), damaged, empty, archive]

    with services.paused("ingest"):
        import_files(page, files, "folder names", "mixed")
        expect(page.locator("#ledger [role=status]")).to_contain_text("1 of 6 files done")

    expect_done(page, 6)
    for path in ("two.png", "liver/three.png"):
        expect(row(page, path).first).to_contain_text("imported")
    same = row(page, "one.png"), row(page, "one-again.png")  # whichever came first
    first, again = same if "imported" in same[0].inner_text() else reversed(same)
    expect(first).to_contain_text("imported")
    expect(again).to_contain_text("duplicate")
    for path in ("cut-off.png", "empty.png"):
        expect(row(page, path)).to_contain_text("rejected")
        expect(row(page, path).get_by_role("cell").nth(3)).to_have_text(re.compile(r"^\w.{10,}\.$"))


def test_ledger_is_filtered_by_state(open_page: OpenPage) -> None:
    page = open_page("curator")
    empty = {**png(1, "nothing.png"), "buffer": b""}
    import_files(page, [png(111, "something.png"), empty], "DICOM tags", "filtered")
    expect_done(page, 2)

    page.get_by_role("link", name="rejected 1").click()

    expect(page).to_have_url(re.compile(r"\?state=rejected$"))
    expect(row(page, "nothing.png")).to_be_visible()
    expect(row(page, "something.png")).to_have_count(0)


def test_ledger_refreshes_itself_without_javascript(open_page: OpenPage, services: Services) -> None:
    page = open_page("curator", java_script_enabled=False)

    with services.paused("ingest"):
        import_files(page, [png(115, "slow.png")], "DICOM tags", "plain")
        expect(row(page, "slow.png")).to_contain_text("queued")

    expect_done(page, 1)


def test_cancelled_files_are_tried_again(open_page: OpenPage, services: Services) -> None:
    page = open_page("curator")
    with services.paused("ingest"):
        import_files(page, [png(140, "a.png"), png(141, "b.png")], "DICOM tags", "cancelled")
        page.get_by_role("button", name="Cancel import").click()
        expect(page.get_by_text("Cancelled: 2 files will not be read.")).to_be_visible()
        expect(page.get_by_role("table").first).to_contain_text("The import was cancelled")
    page.get_by_role("button", name="Try b.png again").click()
    expect(row(page, "b.png")).to_contain_text("imported")
    page.get_by_role("button", name="Try 1 rejected file again").click()
    expect(row(page, "a.png")).to_contain_text("imported")
    with page.expect_download() as download:
        page.get_by_role("link", name="Report as CSV").click()
    assert "a.png,imported" in Path(download.value.path()).read_text()


def test_folder_is_imported_with_its_names_as_labels(open_page: OpenPage, tmp_path: Path) -> None:
    for number, organ in enumerate(["kidney", "spine"]):
        (tmp_path / "atlas" / organ).mkdir(parents=True)
        (tmp_path / "atlas" / organ / "a.png").write_bytes(factories.png_bytes(seed=120 + number))
    page = open_page("curator")

    import_files(page, tmp_path / "atlas", "folder names", "atlas", field="A folder")

    expect_done(page, 2)
    expect(row(page, "atlas/kidney/a.png")).to_contain_text("imported")
    page.get_by_role("link", name="Decide").click()
    page.get_by_role("row", name="kidney").get_by_role("button", name="A new organ").click()
    expect(page.get_by_text("From now on kidney means kidney.")).to_be_visible()
    page.get_by_role("button", name="Make an organ of each").click()
    expect(page.get_by_text("No name waits.")).to_be_visible()
    assert set(Image.objects.filter(dataset__name="atlas").values_list("organ__name", flat=True)) == {
        "kidney",
        "spine",
    }


@pytest.mark.usefixtures("collection")
def test_imported_dicom_is_found_and_names_nobody(open_page: OpenPage) -> None:
    page = open_page("curator")
    content = factories.dicom_bytes(seed=130, SliceThickness="2.5")
    file = {"name": "found.dcm", "mimeType": "application/dicom", "buffer": content}
    import_files(page, file, "DICOM tags", "findable")
    expect_done(page, 1)
    image = Image.objects.get(dataset__name="findable")
    wait_until(lambda: Embedding.objects.filter(image=image).exists(), "the index")

    search_with(open_search(page), file)  # the nearest of all, with its own patient
    assert not names_anybody(page)
    switch = page.get_by_role("switch", name="own patient and duplicates")
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "true")
    page.get_by_role("link", name="image", exact=True).click()
    page.locator(f"#results a[href='/images/{image.pk}/']").click()

    expect(page.get_by_role("heading", name=f"Image {image.pk}")).to_be_visible()
    expect_loaded(page.locator("figure img"))
    facts = page.locator("dl.facts")
    expect(facts).to_contain_text("Slice Thickness")
    expect(facts).to_contain_text("2.5")
    expect(facts).to_contain_text("HEAD")
    assert not names_anybody(page)


def open_search(page: Page) -> Page:
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Search").click()
    expect(page.locator("form[data-upload]")).to_be_visible()
    return page


def names_anybody(page: Page) -> list[str]:
    """What of the patient's attributes is anywhere in the page."""
    content = page.content()
    return [word for word in PATIENT if word in content]


def test_nothing_chosen_is_told(open_page: OpenPage, watch: Watch) -> None:
    watch.expect(422)
    page = open_page("curator", "/imports/new/")
    page.get_by_label("Data set").fill("none")

    page.get_by_role("button", name="Import").click()

    expect(page.get_by_text("Choose files, a folder or an archive.")).to_be_visible()
    expect(page.get_by_label("Data set")).to_have_value("none")


def test_clinician_may_not_import(open_page: OpenPage, watch: Watch) -> None:
    watch.expect(403)
    page = open_page("clinician")
    expect(page.get_by_role("link", name="Imports")).to_have_count(0)

    page.goto("/imports/new/")

    expect(page.get_by_role("heading", name="Not for this account")).to_be_visible()
