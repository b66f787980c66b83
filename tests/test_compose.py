"""The compose file cannot be run in the tests: its shape is checked against the specification's schema."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text()))


def test_compose_file_fits_the_specification(compose: dict[str, Any]) -> None:
    builtin = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose, json.loads(builtin.read_text()))


def test_every_service_has_a_health_check(compose: dict[str, Any]) -> None:
    without = {"migrate", "schedule"}  # one ends by itself; the other has nothing to ask
    assert {name for name, s in compose["services"].items() if "healthcheck" not in s} == without


def test_every_queue_has_a_worker(compose: dict[str, Any]) -> None:
    from django.conf import settings

    queues = {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()}
    commands = [" ".join(s.get("command", [])) for s in compose["services"].values()]
    assert {q for q in queues if any(f"-Q {q} " in c for c in commands)} == queues


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "CBMIR_SECRET_KEY", "CBMIR_PSEUDONYM_KEY"):
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text
        assert f"\n{name}=\n" in example
