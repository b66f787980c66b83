"""A clinician asks beyond one file: a part of the picture, marks, why similar."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.actions import RESULT_PAGE, cards, png_file, search_with
from tests.browser.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("collection")]


def test_a_part_is_drawn_and_searched_with(open_page: OpenPage) -> None:
    page = open_page()
    search_with(page, png_file())
    whole = page.url
    page.get_by_text("Search with a part of the picture").click()
    picture = page.get_by_alt_text("Query image").bounding_box()
    assert picture

    page.mouse.move(picture["x"] + 0.25 * picture["width"], picture["y"] + 0.25 * picture["height"])
    page.mouse.down()
    page.mouse.move(picture["x"] + 0.8 * picture["width"], picture["y"] + 0.9 * picture["height"])
    page.mouse.up()
    assert float(page.get_by_label("Bottom").input_value()) == pytest.approx(90, abs=1)
    page.get_by_role("button", name="Search with this part").click()

    expect(page).not_to_have_url(whole)
    expect(page.get_by_role("link", name="the whole picture")).to_be_visible()
    expect(cards(page).first).to_be_visible()


def test_marks_refine_and_are_undone(open_page: OpenPage) -> None:
    page = open_page()
    search_with(page, png_file())
    before = page.url

    page.get_by_role("button", name="Relevant", exact=True).first.click()
    page.get_by_role("button", name="Not relevant").nth(1).click()
    expect(page.locator("#refining")).to_contain_text("1 marked relevant, 1 not")
    page.get_by_role("button", name="Refine the results").click()

    expect(page.locator("#refining")).to_contain_text("Refined by 1 relevant, 1 not.")
    page.get_by_role("link", name="Undo").click()
    expect(page).to_have_url(re.compile(re.escape(before)))
    expect(page.locator("#refining")).to_contain_text("1 marked relevant")


def test_why_similar_shows_both_maps(open_page: OpenPage) -> None:
    page = open_page()
    search_with(page, png_file())

    page.get_by_role("link", name="Why similar?").first.click()

    expect(page.locator(".why-map")).to_have_count(2)
    page.get_by_label("Show the maps").uncheck()
    expect(page.locator(".why-map").first).to_have_css("opacity", "0")


def test_two_files_without_javascript(open_page: OpenPage) -> None:
    page = open_page(java_script_enabled=False)
    files = [png_file(1, name="a.png"), {"name": "b.txt", "mimeType": "text/plain", "buffer": b"letter"}]
    page.locator("input[type=file]").set_input_files(files)
    page.get_by_role("button", name="Search", exact=True).click()

    expect(page).to_have_url(RESULT_PAGE)
    expect(cards(page).first).to_be_visible()
    expect(page.get_by_text("b.txt")).to_be_visible()
    page.get_by_role("button", name="Relevant", exact=True).first.click()
    expect(page.get_by_text("1 marked relevant, 0 not")).to_be_visible()
