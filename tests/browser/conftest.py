"""A real Chromium against the real services: web server, broker and workers on a database of the tests."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client, override_settings
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ingest.bell import ring
from ingest.models import Image
from ml.models import ModelVersion
from search.models import Embedding
from tests import factories
from tests.browser.services import Services
from tests.browser.watch import Watch
from tests.processes import wait_until

CHROMIUM_NAMES = ["chromium", "chromium-browser", "google-chrome"]
CHROMIUM_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
]
NO_CHROMIUM = "There is no Chromium on this machine; `apt-get install chromium` brings one."
PEOPLE = {
    "clinician": "clinician",
    "colleague": "clinician",
    "curator": "curator",
    "admin": "admin",
    "nobody": "nobody",
}

OpenPage = Callable[..., Page]


@pytest.fixture(scope="package")
def chromium() -> str:
    found = [path for path in map(shutil.which, CHROMIUM_NAMES) if path]
    if found:
        return found[0]
    if os.environ.get("CBMIR_REQUIRE_BROWSER") == "1":
        pytest.fail(NO_CHROMIUM)
    pytest.skip(NO_CHROMIUM)


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    expect.set_options(timeout=30_000)
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Playwright keeps an event loop in this thread
        with playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS) as browser:
            yield browser


@pytest.fixture(scope="package")
def db(browser: Browser, django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The test database as the services see it: what a test writes is committed."""
    with django_db_blocker.unblock():
        yield
        connections.close_all()  # Django keeps one of its own for code that runs beside an event loop


@pytest.fixture(scope="package")
def services(db: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The running product."""
    services = Services(tmp_path_factory.mktemp("media"), tmp_path_factory.mktemp("log"))
    with override_settings(MEDIA_ROOT=services.media_root):
        call_command("collectstatic", verbosity=0, interactive=False)
        try:
            services.start()
            yield services
        finally:
            services.stop()


@pytest.fixture(autouse=True)
def media_root() -> Path:
    """The services and every test of this folder share one file storage."""
    return Path(settings.MEDIA_ROOT)


@pytest.fixture(scope="module")
def database(services: Services) -> Iterator[None]:
    """A database that is empty again after the tests of a module."""
    yield
    wait_until(flushed, "the flush of the database")


def flushed() -> bool:
    """Whether the database could be emptied: what the services are still about can stand in its way."""
    try:
        call_command("flush", verbosity=0, interactive=False)
    except CommandError:  # a deadlock: PostgreSQL let the other one go on
        return False
    return True


@pytest.fixture(scope="module")
def model_version(database: None) -> ModelVersion:
    return factories.make_model_version()


@pytest.fixture(scope="module")
def collection(model_version: ModelVersion) -> list[Image]:
    """Thirty images that a worker has indexed: twenty brains and ten chests, some MR and most CT."""
    images = [
        factories.make_image(organ="chest" if n % 3 == 2 else "brain", modality="MR" if n % 5 == 4 else "CT")
        for n in range(30)
    ]
    ring("search.index_images")
    wait_until(lambda: Embedding.objects.filter(image__in=images).count() == len(images), "the index")
    return images


@pytest.fixture(scope="module")
def people(database: None) -> dict[str, Any]:
    """An account of every role, and two clinicians."""
    return {name: factories.make_user(role) for name, role in PEOPLE.items()}


@pytest.fixture
def watch(services: Services) -> Iterator[Watch]:
    """Fails the test in the end for whatever went wrong in its browsers."""
    watch = Watch(services.address)
    yield watch
    assert watch.problems == []


@pytest.fixture
def open_page(
    browser: Browser, services: Services, people: dict[str, Any], watch: Watch
) -> Iterator[OpenPage]:
    """Opens a browser of its own: signed in as one of the people, or not at all (None)."""
    contexts = []

    def open_browser(name: str | None = "clinician", path: str = "/", **options: Any) -> Page:
        context = browser.new_context(base_url=services.address, **options)
        contexts.append(context)
        watch.over(context)
        if name:
            session = session_of(people[name])
            context.add_cookies([{"name": "sessionid", "value": session, "url": services.address}])
        page = context.new_page()
        page.goto(path)
        return page

    yield open_browser
    for context in contexts:
        context.close()


def session_of(user: Any) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value
