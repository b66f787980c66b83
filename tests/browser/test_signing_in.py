"""Signing in and out."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.watch import Watch

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("database")]
PASSWORD = "a long enough password"


def sign_in(page: Page, name: str, password: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_wrong_password_is_told(open_page: OpenPage, people: dict[str, Any]) -> None:
    page = open_page(None)

    sign_in(page, people["clinician"].username, "another password")

    expect(page.get_by_role("alert")).to_contain_text("Please enter a correct username and password")


def test_right_password_leads_where_one_wanted_to_go(open_page: OpenPage, people: dict[str, Any]) -> None:
    page = open_page(None, "/status/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

    sign_in(page, people["clinician"].username, PASSWORD)

    expect(page).to_have_url("/status/")
    expect(page.locator("header")).to_contain_text(people["clinician"].username)


def test_signing_out_closes_the_pages(open_page: OpenPage) -> None:
    page = open_page()

    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/status/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_account_without_a_role_is_told(open_page: OpenPage, watch: Watch) -> None:
    watch.expect(403)
    page = open_page("nobody")
    expect(page.get_by_role("heading", name="Not for this account")).to_be_visible()
