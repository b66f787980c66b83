"""Fixtures for every test: files in a folder of the test's own, people of every role, a tiny real model."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from ml.models import ModelVersion
from tests import factories

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="the folder of real images ../shared/data is not beside the project")
    for item in items:
        if "shared_data" in item.keywords and not SHARED_DATA.is_dir():
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def media_root(settings: Any, tmp_path: Path) -> Path:
    """An empty file storage and data directory of the test's own; quick static files, quick passwords."""
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.DATA_DIR = tmp_path / "data"
    settings.ENGINE = "torch"  # is ready at once; tests/ml/test_engines.py and workers have the other
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return tmp_path / "media"


@pytest.fixture
def rung() -> Callable[[], set[str]]:
    """Tells which tasks were rung for since the test began."""
    broker = redis.from_url(settings.REDIS_URL)

    def keys() -> list[bytes]:
        return [key for queue in ("ingest", "inference", "indexing") for key in broker.scan_iter(f"{queue}*")]

    for key in keys():
        broker.delete(key)
    return lambda: {
        json.loads(bell)["headers"]["task"] for key in keys() for bell in broker.lrange(key, 0, -1)
    }


@pytest.fixture
def shared_data() -> Path:
    return SHARED_DATA


@pytest.fixture
def user_of(db: None) -> Callable[[str], User]:
    """A user of a role; "nobody" has no role at all."""
    return factories.make_user


@pytest.fixture
def client_of(db: None) -> Callable[[str | None], Client]:
    """A browser signed in as a role, as "nobody" (an account without a role) or not at all (None)."""

    def make(role: str | None) -> Client:
        client = Client()
        if role is not None:
            client.force_login(factories.make_user(role))
        return client

    return make


@pytest.fixture
def model_version(db: None) -> Iterator[ModelVersion]:
    """An active version with a tiny, real, untrained network: brain and chest, CT and MR."""
    from ml.serving import forget_describers

    forget_describers()
    yield factories.make_model_version()
    forget_describers()


@pytest.fixture(scope="session")
def object_storage() -> Iterator[str]:
    """The address of a server of this machine that speaks S3."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield f"http://localhost:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Has the product reach the object storage of an address, and gives its own client of it."""
    from ingest.buckets import client

    def reach(address: str) -> Any:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        client.cache_clear()
        return client()

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "product",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    yield reach
    client.cache_clear()


@pytest.fixture
def s3(object_storage: str, reached: Callable[[str], Any]) -> Any:
    """The product's client of an empty object storage."""
    requests.post(f"{object_storage}/moto-api/reset", timeout=10)
    return reached(object_storage)
