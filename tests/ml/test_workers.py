"""Workers say what their networks run on; nobody waits for a Redis that is not there."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import cache
from django.test import override_settings
from redis.exceptions import RedisError

from ml import workers
from ml.models import ModelVersion
from ml.serving import describer_for


def heart_of(worker: str) -> Any:
    return SimpleNamespace(eventer=SimpleNamespace(hostname=worker))


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(workers, "engine_in_use", "")
    cache.delete(workers.ENGINES_KEY)
    yield
    cache.delete(workers.ENGINES_KEY)


def test_a_worker_without_a_network_says_nothing() -> None:
    workers.tell_engine(heart_of("training@ward"))
    assert workers.engines_at_work() == []


def test_a_network_that_is_ready_is_told_with_the_heartbeat(model_version: ModelVersion) -> None:
    describer_for(model_version.pk)
    workers.tell_engine(heart_of("inference@ward"))
    assert workers.engines_at_work() == ["PyTorch, CPU float32"]


def test_engines_of_several_hosts_are_told_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for worker, engine in [("a", "OpenVINO, CPU bfloat16"), ("b", "PyTorch, CUDA bfloat16")] * 2:
        monkeypatch.setattr(workers, "engine_in_use", engine)
        workers.tell_engine(heart_of(worker))
        workers.tell_engine(heart_of(f"{worker}2"))
    assert workers.engines_at_work() == ["OpenVINO, CPU bfloat16", "PyTorch, CUDA bfloat16"]


def test_a_worker_that_is_silent_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "engine_in_use", "OpenVINO, CPU bfloat16")
    workers.tell_engine(heart_of("a"))
    later = workers.time.time() + workers.SILENT_SECONDS
    monkeypatch.setattr(workers.time, "time", lambda: later)
    assert workers.engines_at_work() == []


def test_without_redis_nothing_is_known_and_nothing_breaks(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "engine_in_use", "OpenVINO, CPU bfloat16")
    away = {"default": {**settings.CACHES["default"], "LOCATION": "unix:///nowhere/redis.sock"}}
    with override_settings(CACHES=away):
        with pytest.raises(RedisError):
            cache.get("anything")
        workers.tell_engine(heart_of("a"))
        assert workers.engines_at_work() == []
