"""An administrator trains the network in the admin and puts versions into service and back."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from ml.models import ModelVersion, TrainingRun
from tests.browser.actions import png_file, search_with
from tests.browser.conftest import OpenPage
from tests.browser.services import Services
from tests.processes import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("collection")]
EPOCHS = 2


def start_training(page: Page, epochs: int) -> Locator:
    """Ask for a training; the part of its page that follows it."""
    page.get_by_role("link", name="Training").click()
    page.get_by_role("link", name="Add training run").first.click()
    page.get_by_label("Epochs").fill(str(epochs))
    page.get_by_label("Device").select_option("cpu")
    page.get_by_role("button", name="Save", exact=True).click()
    return page.locator("#progress")


def put_into_service(page: Page, version: ModelVersion) -> None:
    """Choose the version in the list and the one action there is, and wait until it serves."""
    page.goto("/admin/ml/modelversion/")
    page.get_by_role("checkbox", name=f"for an action - {version}").check()
    page.get_by_role("combobox", name="Action").select_option("Put into service")
    page.get_by_role("button", name="Go").click()
    expect(page.locator(".messagelist")).to_contain_text(f"{version} goes into service", ignore_case=True)
    wait_until(lambda: ModelVersion.objects.active() == version, f"{version} to serve")
    page.goto("/")
    expect(page.locator("#status")).to_contain_text(re.compile(rf"model in service\s*{version}\b"))


def test_network_is_trained_and_put_into_service_and_back(
    open_page: OpenPage, services: Services, model_version: ModelVersion
) -> None:
    page = open_page("admin")

    with services.paused("training"):
        progress = start_training(page, EPOCHS)
        expect(progress.get_by_role("heading")).to_have_text("Queued")
    expect(progress).to_contain_text(re.compile(f"Epoch [12] of {EPOCHS}"))
    expect(progress.get_by_role("heading")).to_have_text("Succeeded", timeout=90_000)
    expect(progress.locator("tbody tr")).to_have_count(EPOCHS)
    expect(progress.get_by_role("img", name="Loss per epoch")).to_be_visible()
    expect(progress.get_by_role("img", name="Accuracy per epoch")).to_be_visible()

    trained = ModelVersion.objects.latest("pk")
    expect(progress.get_by_role("link", name=str(trained))).to_be_visible()
    for version in (trained, model_version):
        put_into_service(page, version)
        search_with(page, png_file())
        expect(page.get_by_text(f"Seen by model {version}")).to_be_visible()


def test_running_training_is_cancelled(open_page: OpenPage) -> None:
    page = open_page("admin")
    progress = start_training(page, epochs=10_000)
    expect(progress).to_contain_text("Epoch")

    progress.get_by_role("button", name="Cancel the training").click()

    expect(progress.get_by_role("heading")).to_have_text("Cancelled")
    run = TrainingRun.objects.latest("pk")
    wait_until(lambda: not run.resume_dir.exists(), "the worker to clear up")
    assert not ModelVersion.objects.filter(training_run=run).exists()
