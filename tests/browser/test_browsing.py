"""Going through results: scope, pages and filters, each with an address that anyone may open."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ingest.models import Image
from tests.browser.actions import cards, expect_loaded, found_images, png_file, ranks, search_with
from tests.browser.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("collection")]


@pytest.fixture
def results(open_page: OpenPage) -> Page:
    """The results of the whole collection: thirty, on two pages."""
    page = open_page()
    search_with(page, png_file())
    page.get_by_role("link", name="Whole collection").click()
    expect(page).to_have_url(re.compile(r"\?scope=all$"))
    expect(count(page)).to_have_text("30 images · page 1")
    return page


def count(page: Page) -> Any:
    return page.locator(".results-count")


def filter_by(page: Page, facet: str, value: str) -> None:
    page.get_by_role("navigation", name=f"Filter by {facet}").get_by_role("link", name=value).click()


def test_scope_is_in_the_address(results: Page) -> None:
    expect(results).to_have_url(re.compile(r"\?scope=all$"))

    results.get_by_role("link", name="Predicted organ").click()

    expect(results).to_have_url(re.compile(r"\?scope=predicted$"))
    expect(count(results)).to_contain_text(re.compile(r"images of (brain|chest)"))


def test_pages_go_on_counting(results: Page) -> None:
    first_page = found_images(results)

    results.get_by_role("link", name="Next").click()

    expect(results).to_have_url(re.compile(r"\?scope=all&page=2$"))
    expect(count(results)).to_contain_text("page 2")
    assert ranks(results) == list(range(25, 31))
    assert not set(found_images(results)) & set(first_page)


def test_filters_narrow_the_results(results: Page) -> None:
    filter_by(results, "organ", "chest")
    expect(results).to_have_url(re.compile(r"organ=chest"))
    expect(count(results)).to_have_text("10 images of chest")

    filter_by(results, "modality", "MR")
    expect(results).to_have_url(re.compile(r"organ=chest&modality=MR"))
    expect(count(results)).to_have_text("2 images of chest, MR")
    expect(cards(results)).to_have_count(2)

    filter_by(results, "modality", "MR")  # again: the filter is taken away
    expect(count(results)).to_have_text("10 images of chest")


def test_going_back_restores_the_results(results: Page) -> None:
    before = found_images(results)
    filter_by(results, "organ", "chest")
    expect(cards(results)).to_have_count(10)

    results.go_back()

    expect(results).to_have_url(re.compile(r"\?scope=all$"))
    expect(cards(results)).to_have_count(24)
    assert found_images(results) == before


def test_going_back_from_an_image_restores_the_page(results: Page) -> None:
    results.get_by_role("link", name="Next").click()
    expect(cards(results)).to_have_count(6)
    cards(results).first.click()
    expect(results.get_by_role("button", name="Search with this image")).to_be_visible()

    results.go_back()

    expect(count(results)).to_contain_text("page 2")


def test_colleague_sees_the_same_at_the_same_address(results: Page, open_page: OpenPage) -> None:
    filter_by(results, "modality", "CT")
    expect(count(results)).to_have_text("24 images, CT")

    colleague = open_page("colleague", results.url)

    expect(colleague).to_have_url(results.url)
    assert found_images(colleague) == found_images(results)


def test_image_page_shows_a_larger_picture(results: Page) -> None:
    small = cards(results).first.locator("img").bounding_box()

    cards(results).first.click()

    picture = results.locator("figure img")
    expect_loaded(picture)
    large = picture.bounding_box()
    assert large
    assert small
    assert large["width"] > 2 * small["width"]


def test_image_of_the_collection_is_searched_with(open_page: OpenPage, collection: list[Image]) -> None:
    page = open_page(path=f"/images/{collection[0].pk}/")

    page.get_by_role("button", name="Search with this image").click()
    page.get_by_role("link", name="Whole collection").click()

    expect(count(page)).to_contain_text("29 images")  # all but itself
    expect_loaded(page.get_by_alt_text("Query image"))
