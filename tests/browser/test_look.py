"""How the pages look: dark or light, on a wide window and a narrow one, with no error of their own."""

import pytest
from playwright.sync_api import Page, expect

from ingest.bell import ring
from ingest.models import Image
from ingest.receiving import open_batch, receive_file
from ml.models import ModelVersion, TrainingRun
from tests import factories
from tests.browser.actions import png_file, search_with
from tests.browser.conftest import OpenPage
from tests.browser.watch import Watch
from tests.processes import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("collection")]
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
CONTENT = "main h1, #content h1, .swagger-ui .opblock"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
SIDEWAYS = "Math.max(0, document.documentElement.scrollWidth - innerWidth)"
LONG_PATH = "a-folder-with-a-long-name/" * 3 + "and_a_long_name_of_a_file_without_a_single_space.png"
EPOCH = {"train_loss": 0.5, "train_accuracy": 0.8, "val_loss": 0.6, "val_accuracy": 0.7, "seconds": 3}


@pytest.fixture(scope="module")
def pages(collection: list[Image], model_version: ModelVersion) -> list[str]:
    """The addresses that need no query."""
    run = TrainingRun.objects.create(epochs=2, status="succeeded", history=[EPOCH, EPOCH])
    return [
        *("/", "/status/", f"/images/{collection[0].pk}/"),
        *("/imports/duplicates/", "/imports/classes/", "/imports/classes/modality/CT/", "/imports/datasets/"),
        *(f"/imports/datasets/{collection[0].dataset_id}/", "/imports/names/"),
        *("/imports/", "/imports/new/", f"/imports/{import_files()}/", "/api/v1/docs/"),
        *("/admin/", "/admin/ml/trainingrun/", "/admin/ml/trainingrun/add/", "/admin/ingest/image/"),
        *(f"/admin/ml/trainingrun/{run.pk}/change/", "/admin/ml/modelversion/"),
        f"/admin/ml/modelversion/{model_version.pk}/change/",
    ]


def import_files() -> int:
    """An import with a file that is refused; its number."""
    batch = open_batch("with a name of several words", "folder", None)
    receive_file(batch, LONG_PATH, factories.png_bytes(seed=201))
    receive_file(batch, f"damaged/{LONG_PATH}", b"no image")
    ring("ingest.import_queued_files")
    wait_until(lambda: batch.is_finished, "the import")
    return batch.pk


def answers(page: Page) -> list[str]:
    """The addresses of an answered query in its states."""
    search_with(page, png_file())
    found = page.url
    return [found, f"{found}?scope=all", f"{found}?scope=all&page=2", f"{found}?organ=chest&dataset=test"]


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_no_page_scrolls_sideways_or_has_an_error(
    open_page: OpenPage, pages: list[str], size: dict[str, int]
) -> None:
    page = open_page("admin", viewport=size)

    sideways = {}
    for address in [*pages, *answers(page)]:
        page.goto(address)
        expect(page.locator(CONTENT).first).to_be_visible()
        if excess := page.evaluate(SIDEWAYS):
            sideways[address] = excess

    assert sideways == {}


def test_sign_in_page_fits_a_narrow_window(open_page: OpenPage) -> None:
    page = open_page(None, viewport=NARROW)
    expect(page.get_by_role("button", name="Sign in")).to_be_in_viewport()
    assert page.evaluate(SIDEWAYS) == 0


def test_light_is_kept_once_chosen(open_page: OpenPage) -> None:
    page = open_page()
    dark = page.evaluate(BACKGROUND)

    page.get_by_role("button", name="Switch between light and dark").click()

    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    assert page.evaluate(BACKGROUND) != dark
    page.goto("/status/")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.reload()
    assert page.evaluate(BACKGROUND) == dark


def test_page_that_is_not_there_says_so(open_page: OpenPage, watch: Watch) -> None:
    watch.expect(404)
    page = open_page(path="/images/999999999/")

    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.get_by_role("link", name="Back to the search").click()
    expect(page.locator("form[data-upload]")).to_be_visible()
