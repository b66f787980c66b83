"""A curator looks at files that were held back: masks with one click, takes boxes away, draws others."""

from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from playwright.sync_api import Locator, Page, expect

from ingest.bell import ring
from ingest.models import Image, QuarantinedFile, UploadedFile
from ingest.receiving import open_batch, receive_file
from tests.browser.actions import expect_loaded
from tests.browser.conftest import OpenPage
from tests.browser.services import Services
from tests.ingest.test_quarantine import ultrasound
from tests.processes import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("model_version")]


def bring_in(*seeds: int) -> list[QuarantinedFile]:
    """Ultrasound pictures with a name in them, held back by the worker."""
    batch = open_batch("ultrasound", "dicom", None)
    for seed in seeds:
        receive_file(batch, f"{seed}.dcm", ultrasound(seed))
    ring("ingest.import_queued_files")
    held = QuarantinedFile.objects.filter(file__batch=batch)
    wait_until(lambda: held.count() == len(seeds), "the quarantine")
    return list(held)


def cards(page: Page) -> Locator:
    return page.locator("#quarantine .card")


def boxes(page: Page) -> Locator:
    return cards(page).first.locator(".mask-box input")


def image_of(file: UploadedFile) -> Image:
    wait_until(lambda: Image.objects.filter(uploaded_file=file).exists(), "the import")
    return Image.objects.get(uploaded_file=file)


def preview_of(image: Image) -> np.ndarray[Any, Any]:
    with image.preview.open() as file:
        return np.asarray(PillowImage.open(file))


def expect_all_loaded(page: Page) -> None:
    """Before any of the files is decided: afterwards its picture is there no more."""
    for picture in cards(page).locator("figure img").all():
        expect_loaded(picture)


def test_one_click_masks_and_imports(open_page: OpenPage, services: Services) -> None:
    first, _second, third = bring_in(201, 202, 203)
    page = open_page("curator", "/imports/")
    page.get_by_role("link", name="Look at them").click()
    expect(cards(page)).to_have_count(3)
    expect_all_loaded(page)
    cards(page).first.get_by_role("button", name="Mask and import").click()
    expect(cards(page)).to_have_count(2)
    expect_all_loaded(page)
    expect(page.get_by_text("1 file masked and imported.")).to_be_visible()
    left, top, right, bottom = (round(256 * edge) for edge in first.boxes[0])
    assert preview_of(image_of(first.file))[top + 2 : bottom - 2, left + 2 : right - 2].max() <= 12

    expect(cards(page).first).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    expect(cards(page)).to_have_count(1)
    expect(cards(page).first).to_be_focused()
    third.file.refresh_from_db()
    assert third.file.state == "rejected"
    page.keyboard.press("i")
    expect(page.get_by_text("No file waits in quarantine.")).to_be_visible()


def test_boxes_are_taken_away_and_drawn(open_page: OpenPage, services: Services) -> None:
    (held,) = bring_in(211)
    page = open_page("curator", "/imports/quarantine/")
    expect_loaded(cards(page).first.locator("figure img"))
    for box in boxes(page).all():
        box.uncheck()
    area = cards(page).first.locator("figure").bounding_box()
    assert area
    x, y, width, height = area["x"], area["y"], area["width"], area["height"]
    page.mouse.move(x + 0.5 * width, y + 0.5 * height)
    page.mouse.down()
    page.mouse.move(x + 0.75 * width, y + 0.75 * height, steps=4)
    page.mouse.up()
    expect(boxes(page)).to_have_count(len(held.boxes) + 1)
    cards(page).first.get_by_role("button", name="Mask and import").click()
    expect(cards(page)).to_have_count(0)
    held.refresh_from_db()
    ((left, top, right, bottom),) = held.boxes
    assert np.allclose((left, top, right, bottom), (0.5, 0.5, 0.75, 0.75), atol=0.02)
    picture = preview_of(image_of(held.file))
    assert picture[135:185, 135:185].max() <= 12
    assert picture[:60].max() > 200  # the name stays: nothing is masked there


def test_boxes_are_added_moved_and_sized_by_keys_alone(open_page: OpenPage, services: Services) -> None:
    (held,) = bring_in(231)
    page = open_page("curator", "/imports/quarantine/")
    expect_loaded(cards(page).first.locator("figure img"))
    keys = page.keyboard
    keys.press("ArrowDown")
    expect(cards(page).first).to_be_focused()
    for _box in held.boxes:
        cards(page).first.focus()
        keys.press("Tab")
        keys.press("Delete")
    expect(boxes(page)).to_have_count(0)
    expect(cards(page).first).to_be_focused()

    keys.press("b")
    expect(boxes(page)).to_be_focused()
    for key, times in (("ArrowLeft", 50), ("ArrowDown", 5), ("Shift+ArrowRight", 10), ("Shift+ArrowUp", 2)):
        for _ in range(times):
            keys.press(key)
    words = "0% from the left, 50% from the top, 50% wide, 8% high"
    expect(page.get_by_role("checkbox", name=f"Mask the box {words}")).to_be_focused()
    expect(page.locator("[data-box-words]")).to_have_text(words)

    keys.press("b")  # another one, which is taken away again
    expect(boxes(page)).to_have_count(2)
    keys.press("Delete")
    expect(boxes(page)).to_have_count(1)
    expect(boxes(page)).to_be_focused()
    keys.press("Escape")
    expect(cards(page).first).to_be_focused()
    keys.press("m")
    expect(page.get_by_text("1 file masked and imported.")).to_be_visible()
    held.refresh_from_db()
    assert np.allclose(held.boxes, [(0, 0.5, 0.5, 0.58)])
    assert preview_of(image_of(held.file))[131:146, :126].max() <= 12


def test_the_quarantine_works_without_javascript(open_page: OpenPage, services: Services) -> None:
    (held,) = bring_in(221)
    page = open_page("curator", "/imports/quarantine/", java_script_enabled=False)
    boxes(page).first.uncheck()
    expect(boxes(page).first).not_to_be_checked()
    boxes(page).first.check()
    cards(page).first.get_by_role("button", name="Mask and import").click()
    expect(page.get_by_text("1 file masked and imported.")).to_be_visible()
    held.refresh_from_db()
    assert held.decision == "mask"
