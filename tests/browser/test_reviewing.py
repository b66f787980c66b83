"""A curator answers the review by keys, and takes an answer back."""

import pytest
from playwright.sync_api import Locator, Page, expect

from ingest.models import Image, LabelChange
from tests.browser.actions import expect_loaded
from tests.browser.conftest import OpenPage

pytestmark = [pytest.mark.browser]


def cards(page: Page) -> Locator:
    return page.locator("#review .card")


def image_of(card: Locator) -> Image:
    return Image.objects.get(pk=card.locator("input[name=image]").get_attribute("value"))


def test_images_are_reviewed_by_keys(open_page: OpenPage, collection: list[Image]) -> None:
    Image.objects.filter(pk__in=[image.pk for image in collection[:5]]).update(organ=None)
    page = open_page("curator")
    page.get_by_role("link", name="Review").click()
    page.get_by_role("link", name="No label 5").click()
    expect(cards(page)).to_have_count(5)
    expect(cards(page).first.locator(".card-link")).to_be_focused()
    expect_loaded(cards(page).first.locator("img"))

    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    first = image_of(cards(page).first)
    seen = cards(page).first.locator("strong").inner_text()
    page.keyboard.press("a")
    expect(cards(page)).to_have_count(4)
    first.refresh_from_db()
    assert str(first.organ) == seen
    expect(page.get_by_text("1 reviewed today")).to_be_visible()

    skipped = image_of(cards(page).first)  # what follows has the focus now
    page.keyboard.press("s")
    expect(cards(page)).to_have_count(3)
    assert skipped.pk not in LabelChange.objects.values_list("image", flat=True)

    chosen = image_of(cards(page).first)
    cards(page).first.get_by_label("Another organ").select_option("chest")
    expect(cards(page)).to_have_count(2)
    chosen.refresh_from_db()
    assert str(chosen.organ) == "chest"

    page.keyboard.press("z")
    expect(cards(page)).to_have_count(3)
    chosen.refresh_from_db()
    assert chosen.organ is None
    page.get_by_role("button", name="Accept what the network sees for all 3 shown").click()
    expect(page.get_by_text("Nothing waits here. You have skipped 1.")).to_be_visible()
    page.get_by_role("button", name="Show 1 skipped again").click()
    expect(cards(page)).to_have_count(1)


def test_the_review_works_without_javascript(open_page: OpenPage, collection: list[Image]) -> None:
    image = collection[7]
    Image.objects.filter(pk=image.pk).update(organ=None)
    LabelChange.objects.all().delete()
    page = open_page("curator", "/review/?why=unlabelled", java_script_enabled=False)
    card = cards(page).filter(has=page.locator(f"input[value='{image.pk}']"))
    card.get_by_label("Another organ").select_option("brain")
    card.get_by_role("button", name="Set").click()
    expect(card).to_have_count(0)
    image.refresh_from_db()
    assert str(image.organ) == "brain"
