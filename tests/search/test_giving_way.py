"""Importing and describing stand aside while somebody searches."""

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from ingest.models import UploadBatch
from ingest.signals import about_to_work
from search import giving_way
from search.models import Query

pytestmark = pytest.mark.django_db


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of this process, none of which takes long."""
    waited: list[float] = []
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(giving_way, "_looks_at", 0.0)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return waited


def asked(seconds_ago: float) -> None:
    query = Query.objects.create()
    Query.objects.filter(pk=query.pk).update(created_at=timezone.now() - timedelta(seconds=seconds_ago))


def test_work_goes_on_where_nobody_searches(waits: list[float]) -> None:
    asked(seconds_ago=5)
    about_to_work.send(UploadBatch)
    assert waits == []


def test_work_waits_for_a_search_but_not_for_ever(waits: list[float]) -> None:
    asked(seconds_ago=-60)  # as by a web server whose clock is a minute ahead
    about_to_work.send(UploadBatch)
    assert sum(waits) == pytest.approx(giving_way.SEARCH_SECONDS, abs=giving_way.ASKED_EVERY)
    about_to_work.send(UploadBatch)
    about_to_work.send(UploadBatch)
    assert sum(waits) == pytest.approx(giving_way.SEARCH_SECONDS, abs=giving_way.ASKED_EVERY)


def test_work_goes_on_when_the_search_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way, "_looks_at", 0.0)
    asked(seconds_ago=0)
    began = time.monotonic()
    about_to_work.send(UploadBatch)
    assert time.monotonic() - began > giving_way.ASKED_EVERY
    assert not giving_way.is_asked_just_now()
