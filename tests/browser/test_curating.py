"""A curator decides on pairs of images that may be one, and merges and renames organs."""

import pytest
from playwright.sync_api import Page, expect

from ingest.models import DuplicatePair, Image, Likeness, OrganClass
from tests.browser.actions import expect_loaded
from tests.browser.conftest import OpenPage
from tests.factories import png_bytes

pytestmark = [pytest.mark.browser]


def make_pair(first: Image, second: Image) -> DuplicatePair:
    return DuplicatePair.objects.create(first=first, second=second, likeness=Likeness.NEAR)


def test_pairs_are_merged_and_kept_apart(open_page: OpenPage, collection: list[Image]) -> None:
    same, other = make_pair(*collection[:2]), make_pair(collection[3], collection[5])  # brains; a chest
    page: Page = open_page("curator", "/imports/")
    page.get_by_role("link", name="Duplicates").click()
    expect(page.get_by_role("link", name="Nearly the same 2")).to_be_visible()
    pair = page.get_by_role("form", name=f"Images {other.first_id} and {other.second_id}")
    expect_loaded(pair.locator("img").first)
    expect(pair.get_by_text("The labels contradict each other. Which organ?")).to_be_visible()
    pair.get_by_role("button", name=f"One image, keep {other.second_id}").click()
    expect(page.get_by_text("The labels contradict each other: choose the organ.")).to_be_visible()
    pair.get_by_label("brain").check()
    pair.get_by_role("button", name=f"One image, keep {other.second_id}").click()
    expect(page.get_by_text(f"Image {other.second_id} stays for both.")).to_be_visible()
    assert str(Image.objects.get(pk=other.second_id).organ) == "brain"
    assert not Image.objects.filter(pk=other.first_id).exists()

    page.get_by_role("form", name=f"Images {same.first_id} and {same.second_id}").get_by_role(
        "button", name="They are different"
    ).click()
    expect(page.get_by_text("No pair waits here.")).to_be_visible()
    same.refresh_from_db()
    assert same.is_different


def test_organs_are_merged_and_taken_apart(open_page: OpenPage, collection: list[Image]) -> None:
    chests = Image.objects.filter(organ__name="chest").count()
    page = open_page("curator", "/imports/classes/")
    page.get_by_role("link", name="chest", exact=True).click()
    page.get_by_label("Merge chest into").select_option("brain")
    page.get_by_role("button", name="Merge").click()
    expect(page.get_by_text("chest is brain now.")).to_be_visible()
    assert not OrganClass.objects.filter(name="chest").exists()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text(f"Undone: {chests} labels given back.")).to_be_visible()
    assert Image.objects.filter(organ__name="chest").count() == chests


def test_columns_of_a_chosen_manifest_are_offered(open_page: OpenPage, collection: list[Image]) -> None:
    page = open_page("curator", "/imports/new/")
    page.get_by_label("Data set").fill("ward")
    page.get_by_label("a manifest.csv").check()
    expect(page.get_by_label("organ is")).to_be_hidden()
    page.locator("#id_files").set_input_files(
        [
            {"name": "manifest.csv", "mimeType": "text/csv", "buffer": b"filename;diagnosis\na.png;brain\n"},
            {"name": "a.png", "mimeType": "image/png", "buffer": png_bytes(seed=99)},
        ]
    )
    expect(page.get_by_label("organ is")).to_be_visible()
    assert page.locator("#manifest-columns option").evaluate_all("all => all.map(one => one.value)") == [
        "filename",
        "diagnosis",
    ]
    page.get_by_label("organ is").fill("diagnosis")
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("1 of 1 file done")).to_be_visible()
    assert str(Image.objects.get(dataset__name="ward").organ) == "brain"
