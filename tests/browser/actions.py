"""What people do on the pages, by the names that the tests call it."""

import re
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests import factories

RESULT_PAGE = re.compile(r"/queries/[0-9a-f-]{36}/")


def png_file(seed: int = 7, organ: str = "brain", name: str = "head.png") -> Any:
    content = factories.png_bytes(factories.make_pixels(seed, organ))
    return {"name": name, "mimeType": "image/png", "buffer": content}


def dicom_file(seed: int = 7, name: str = "slice.dcm") -> Any:
    return {"name": name, "mimeType": "application/dicom", "buffer": factories.dicom_bytes(seed=seed)}


def choose(page: Page, file: Any) -> None:
    page.locator("form[data-upload] input[type=file]").set_input_files(file)


def search_with(page: Page, file: Any) -> None:
    """Choose a file on the search page and wait for its results."""
    choose(page, file)
    expect(page).to_have_url(RESULT_PAGE)
    expect(cards(page).first).to_be_visible()


def cards(page: Page) -> Locator:
    return page.locator("#results .card-link")


def ranks(page: Page) -> list[int]:
    return [int(text) for text in page.locator("#results .card-rank").all_inner_texts()]


def distances(page: Page) -> list[float]:
    texts = page.locator("#results .card-distance").all_inner_texts()
    return [float(text.split()[-1]) for text in texts]


def found_images(page: Page) -> list[str]:
    """The addresses of the result cards in their order."""
    return [card.get_attribute("href") or "" for card in cards(page).all()]


def expect_loaded(picture: Locator) -> None:
    """The picture is there, and not only its frame."""
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_js_property("complete", True)
    expect(picture).not_to_have_js_property("naturalWidth", 0)
