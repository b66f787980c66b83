"""A clinician searches with a file."""

import pytest
from playwright.sync_api import JSHandle, Page, expect

from ingest.models import Image
from ml.templatetags.ml_format import probability
from search.models import Query
from tests.browser.actions import (
    RESULT_PAGE,
    cards,
    choose,
    dicom_file,
    distances,
    expect_loaded,
    png_file,
    ranks,
    search_with,
)
from tests.browser.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("collection")]


@pytest.mark.parametrize("file", [png_file(), dicom_file()], ids=["png", "dicom"])
def test_uploaded_file_is_answered(open_page: OpenPage, file: object) -> None:
    page = open_page()

    search_with(page, file)

    query = Query.objects.latest("created_at")
    modality = query.modality or query.predicted_modality  # what the file says is known, not seen
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{query.predicted_organ} {modality}")
    expect(page.get_by_text("CT by its file")).to_have_count(1 if query.modality else 0)
    expect_loaded(page.get_by_alt_text("Query image"))
    for name, seen_with in [*query.organ_probabilities, *query.modality_probabilities]:
        row = page.locator(".bars dd").filter(has_text=name)
        expect(row).to_contain_text(probability(seen_with))


def test_results_come_in_order(open_page: OpenPage) -> None:
    page = open_page()

    search_with(page, png_file())

    found = distances(page)
    assert ranks(page) == list(range(1, len(found) + 1))
    assert found == sorted(found)
    for picture in page.locator(".card img").all():
        expect_loaded(picture)


def test_image_of_the_collection_finds_itself(open_page: OpenPage, collection: list[Image]) -> None:
    page = open_page()
    with collection[4].original.open() as file:
        search_with(page, {"name": "again.png", "mimeType": "image/png", "buffer": file.read()})

    page.get_by_role("link", name="Whole collection").click()

    expect(cards(page).first).to_have_attribute("href", f"/images/{collection[4].pk}/")
    # Not quite 0: queries and the collection may be described in different number formats.
    nearest, second = distances(page)[:2]
    assert nearest < second / 3


def test_images_of_another_organ_are_marked(open_page: OpenPage) -> None:
    page = open_page()
    search_with(page, png_file())
    page.get_by_role("link", name="Predicted organ").click()
    expect(page.get_by_text("other organ")).to_have_count(0)
    predicted = Query.objects.latest("created_at").predicted_organ

    page.get_by_role("link", name="Whole collection").click()

    expect(page.get_by_text("other organ").first).to_be_visible()
    for card in cards(page).all():
        is_other = predicted not in card.locator(".card-labels").inner_text()
        expect(card.get_by_text("other organ")).to_have_count(int(is_other))


def test_file_that_is_no_image_is_told(open_page: OpenPage) -> None:
    page = open_page()

    choose(page, {"name": "letter.png", "mimeType": "image/png", "buffer": b"Dear colleague"})

    expect(page.get_by_role("alert").first).to_contain_text("This search did not work")
    expect(page.locator("form[data-upload]")).to_be_visible()


def test_dropped_file_is_answered(open_page: OpenPage) -> None:
    page = open_page()
    transfer = transfer_of(page, png_file())

    page.dispatch_event("main", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("form[data-upload]")).to_have_class("upload is-over")
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})

    expect(page).to_have_url(RESULT_PAGE)
    expect(cards(page).first).to_be_visible()


def test_pasted_picture_is_answered(open_page: OpenPage) -> None:
    page = open_page()

    transfer_of(page, png_file()).evaluate("""transfer =>
        document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}))
    """)

    expect(page).to_have_url(RESULT_PAGE)
    expect(cards(page).first).to_be_visible()


def test_two_files_at_once_are_one_search(open_page: OpenPage) -> None:
    page = open_page()

    page.dispatch_event("main", "drop", {"dataTransfer": transfer_of(page, png_file(1), png_file(2))})

    expect(page).to_have_url(RESULT_PAGE)
    expect(page.get_by_alt_text("Image 2 of this search")).to_be_visible()


def transfer_of(page: Page, *files: dict) -> JSHandle:
    """What the browser hands to a page when these files are dropped or pasted."""
    script = """files => {
        const transfer = new DataTransfer();
        for (const [name, type, bytes] of files) {
            transfer.items.add(new File([Uint8Array.from(bytes)], name, {type}));
        }
        return transfer;
    }"""
    return page.evaluate_handle(script, [[f["name"], f["mimeType"], list(f["buffer"])] for f in files])
