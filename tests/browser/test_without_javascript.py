"""The pages where the browser runs no scripts."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import RESULT_PAGE, cards, choose, dicom_file, ranks
from tests.browser.conftest import OpenPage
from tests.browser.services import Services

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("collection")]


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page(java_script_enabled=False)


def search_with_file(page: Page) -> None:
    choose(page, dicom_file())
    page.get_by_role("button", name="Search", exact=True).click()


def test_file_is_uploaded_and_answered(page: Page) -> None:
    search_with_file(page)

    expect(page).to_have_url(RESULT_PAGE)
    expect(cards(page).first).to_be_visible()
    expect(page.locator(".bars")).to_have_count(2)


def test_waiting_page_refreshes_itself(page: Page, services: Services) -> None:
    with services.paused("inference"):
        search_with_file(page)
        expect(page.get_by_role("heading", name="Looking at your image")).to_be_visible()

    expect(cards(page).first).to_be_visible()


def test_scope_pages_and_filters_are_links(page: Page) -> None:
    search_with_file(page)
    page.get_by_role("link", name="Whole collection").click()
    page.get_by_role("link", name="Next").click()

    expect(page).to_have_url(re.compile(r"\?scope=all&page=2$"))
    assert ranks(page) == list(range(25, 31))

    page.get_by_role("navigation", name="Filter by organ").get_by_role("link", name="chest").click()
    expect(page.locator(".results-count")).to_have_text("10 images of chest")
    page.go_back()
    assert ranks(page) == list(range(25, 31))


def test_image_is_opened_and_searched_with(page: Page) -> None:
    search_with_file(page)
    cards(page).first.click()

    page.get_by_role("button", name="Search with this image").click()

    expect(page).to_have_url(RESULT_PAGE)
    expect(cards(page).first).to_be_visible()


def test_file_that_is_missing_is_told(page: Page) -> None:
    page.get_by_role("button", name="Search", exact=True).click()

    assert page.locator("input[type=file]:invalid").count() == 1  # the browser asks for a file by itself
