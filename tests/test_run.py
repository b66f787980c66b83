"""`manage.py run`: comes up, stops clean, and comes up again whatever was killed."""

import json
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.installation import Installation
from tests.processes import wait_until


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cbmir-run-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # the embedded PostgreSQL runs as an account of its own under root
        yield Path(name)


@pytest.fixture(scope="module")
def settled(folder: Path) -> Iterator[Installation]:
    installation = Installation(folder / "a")
    installation.data_dir.mkdir()
    installation.settle()
    yield installation
    installation.kill()


@pytest.fixture
def running(settled: Installation) -> Installation:
    settled.start()
    return settled


def service(installation: Installation, word: str) -> psutil.Process | None:
    """The living service in whose command line the word stands."""
    (ledger,) = installation.data_dir.glob("run/services.json")
    found = [psutil.Process(pid) for pid, _ in json.loads(ledger.read_text()) if psutil.pid_exists(pid)]
    alive = [process for process in found if process.status() != psutil.STATUS_ZOMBIE]
    return next((process for process in alive if word in process.cmdline()), None)


def sign_in(installation: Installation, password: str) -> requests.Response:
    session = requests.Session()
    address = f"http://localhost:{installation.port}/accounts/login/"
    session.get(address).raise_for_status()
    form = {
        "username": "clinician",
        "password": password,
        "csrfmiddlewaretoken": session.cookies["csrftoken"],
    }
    return session.post(address, form)


def test_first_start_prints_passwords_that_work(running: Installation) -> None:
    passwords = running.passwords()
    assert set(passwords) == {"clinician", "curator", "admin"}
    assert sign_in(running, passwords["clinician"]).url == f"http://localhost:{running.port}/"
    assert sign_in(running, "not this one").url.endswith("/accounts/login/")


def test_the_collection_is_indexed(running: Installation) -> None:
    count = "from search.models import Embedding; print(Embedding.objects.count())"
    wait_until(lambda: running.evaluate(count) == "6", "the index")


def test_a_second_run_on_the_same_data_is_refused(running: Installation) -> None:
    second = running.manage("run", "--port", "0")
    assert second.returncode == 1
    assert "It already runs on the data directory" in second.stderr
    assert running.answers()


@pytest.mark.parametrize("word", ["inference", "cbmir_site.wsgi"])
def test_a_killed_service_is_started_again(running: Installation, word: str) -> None:
    before = service(running, word)
    assert before
    before.kill()
    wait_until(lambda: service(running, word) not in (None, before), "a new process")
    wait_until(running.answers, "the page")
    assert "stopped; starting it again" in running.output


def test_interrupt_stops_everything(running: Installation) -> None:
    running.signal(signal.SIGINT)
    wait_until(lambda: not running.processes(), "the end of all processes")
    assert "Traceback" not in running.output


def test_after_everything_was_killed_nothing_is_lost(running: Installation) -> None:
    running.kill()
    running.start()
    assert running.answers()
    assert running.passwords() == {}
    assert running.evaluate("from ingest.models import Image; print(Image.objects.count())") == "6"
    assert running.evaluate("from ml.models import TrainingRun; print(TrainingRun.objects.count())") == "1"


def test_what_outlives_a_killed_supervisor_is_ended(running: Installation) -> None:
    web = service(running, "cbmir_site.wsgi")
    assert web
    running.signal(signal.SIGKILL)
    assert web.is_running()
    running.start()
    assert running.answers()
    assert not web.is_running() or web.status() == psutil.STATUS_ZOMBIE
    running.signal(signal.SIGTERM)
    wait_until(lambda: not running.processes(), "the end of all processes")


def test_a_taken_port_is_told(folder: Path) -> None:
    other = Installation(folder / "b")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run = other.manage("run", "--port", str(taken.getsockname()[1]))
    assert run.returncode == 1
    assert "is taken; choose another one" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_folder_that_is_not_there_is_told(folder: Path) -> None:
    run = Installation(folder / "b").manage("run", "--data", str(folder / "nowhere"))
    assert run.returncode == 1
    assert "There is no folder" in run.stderr
    assert "Traceback" not in run.stderr


def test_given_servers_take_the_place_of_the_embedded_ones(folder: Path, settled: Installation) -> None:
    settled.start()
    urls = settled.evaluate(
        "import os; from django.db import connection as c; c.cursor().execute('CREATE DATABASE given');"
        "print(os.environ['DATABASE_URL']); print(os.environ['REDIS_URL'])"
    ).splitlines()
    servers = {"DATABASE_URL": urls[0].replace("/cbmir?", "/given?"), "REDIS_URL": urls[1]}
    given = Installation(folder / "c", servers)
    given.data_dir.mkdir()
    try:
        given.settle()
        given.start()
        assert given.answers()
        assert not (given.data_dir / "postgres").exists()
        assert not [process for process in given.processes() if "redis" in process.name()]
        given.signal(signal.SIGINT)
        assert settled.answers()  # its servers were not stopped
    finally:
        given.kill()
