"""From signing in to an image of the results without a mouse."""

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.actions import RESULT_PAGE, cards, png_file
from tests.browser.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("collection")]
SHOWS_FOCUS = """focused => {
    const outlined = (element) => {
        const style = getComputedStyle(element);
        const {width, height} = element.getBoundingClientRect();
        const isDrawn = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1.5;
        return isDrawn && width > 1 && height > 1;
    };
    return outlined(focused) || outlined(focused.closest("label") ?? focused);
}"""
MOST_TABS = 60


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until the target has the focus; every stop on the way can be seen to have it."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and not focused.evaluate(SHOWS_FOCUS):
            pytest.fail(f"The focus cannot be seen on {focused.evaluate('e => e.outerHTML')}")
        if target.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"Tab does not lead to {target}")


def test_results_are_reached_by_keyboard_alone(open_page: OpenPage, people: dict[str, Any]) -> None:
    page = open_page(None)
    page.on(
        "filechooser", lambda _: None
    )  # from now on: asked for with the key press, it would come too late
    page.keyboard.type(people["clinician"].username)  # the name has the focus from the start
    tab_to(page, page.get_by_label("Password"))
    page.keyboard.type("a long enough password")
    page.keyboard.press("Enter")

    upload = page.locator("form[data-upload] input[type=file]")
    expect(upload).to_be_visible()
    tab_to(page, upload)
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(png_file())

    expect(page).to_have_url(RESULT_PAGE)
    expect(cards(page).first).to_be_visible()
    tab_to(page, cards(page).first)
    page.keyboard.press("Enter")

    expect(page.get_by_role("button", name="Search with this image")).to_be_visible()
    tab_to(page, page.get_by_role("button", name="Search with this image"))


def test_keys_lead_through_the_results(open_page: OpenPage) -> None:
    page = open_page()
    page.keyboard.press("u")
    upload = page.locator("form[data-upload] input[type=file]")
    expect(upload).to_be_focused()
    upload.set_input_files(png_file())
    expect(cards(page).nth(5)).to_be_visible()
    page.wait_for_load_state("networkidle")  # scripts listen, and nothing is swapped any more

    for key, position in [("ArrowRight", 0), ("ArrowRight", 1), ("End", -1), ("Home", 0)]:
        page.keyboard.press(key)
        expect(cards(page).nth(position)).to_be_focused()


def test_skip_link_leads_to_the_content(open_page: OpenPage) -> None:
    page = open_page()

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")

    expect(page.locator("main")).to_be_focused()
