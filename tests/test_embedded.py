"""The embedded PostgreSQL: joined, left, killed, and started again; sockets whose path is short enough."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cbmir_site import embedded
from tests.installation import Installation
from tests.processes import PATIENCE_SECONDS, ROOT, wait_until

JOIN = "from cbmir_site import embedded; print(embedded.start_postgres(), flush=True); input()"


def run_python(data_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
        | {"CBMIR_DATA_DIR": str(data_dir)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class Joined:
    """A process that has joined the server of a data directory, until it is told to leave or killed."""

    def __init__(self, data_dir: Path) -> None:
        self.process = run_python(data_dir, "-c", JOIN)
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate("\n", timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cbmir-embedded-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # the embedded PostgreSQL runs as an account of its own under root
        monkeypatch.setenv("CBMIR_DATA_DIR", name)
        yield Path(name)
        Installation(Path(name)).kill()


def kill_server(data_dir: Path) -> int:
    """kill -9 of the server and its processes; returns the number it had."""
    lock = data_dir / "postgres" / "postmaster.pid"
    number = int(lock.read_text().split("\n")[0])
    server = psutil.Process(number)
    for process in [server, *server.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: not embedded.postgres_is_running(), "the end of the server")
    return number


def test_the_last_one_to_leave_stops_the_server(data_dir: Path) -> None:
    first, second = Joined(data_dir), Joined(data_dir)
    assert first.url
    assert second.url == first.url
    second.leave()
    assert embedded.postgres_is_running()
    first.leave()
    assert not embedded.postgres_is_running()


def test_killed_processes_do_not_keep_the_server_up(data_dir: Path) -> None:
    killed = Joined(data_dir)
    killed.process.kill()
    killed.process.wait()
    assert embedded.postgres_is_running()
    handles = data_dir / "postgres" / ".handle_pids.json"
    assert json.loads(handles.read_text()) == [killed.process.pid]

    later = Joined(data_dir)
    assert json.loads(handles.read_text()) == [later.process.pid]
    later.leave()
    assert not embedded.postgres_is_running()


def test_a_killed_server_starts_again(data_dir: Path) -> None:
    killed = Joined(data_dir)
    before = kill_server(data_dir)
    killed.process.kill()
    killed.process.wait()

    later = Joined(data_dir)
    assert later.url == killed.url
    assert embedded.postgres_is_running()
    assert int((data_dir / "postgres" / "postmaster.pid").read_text().split("\n")[0]) != before
    later.leave()


def test_a_first_start_killed_in_the_middle_leaves_nothing_half_made(data_dir: Path) -> None:
    killed = run_python(data_dir, "-c", JOIN)
    wait_until(lambda: list(data_dir.glob("postgres-new-*/PG_VERSION")), "the first files")
    Installation(data_dir).kill()
    killed.wait()

    later = Joined(data_dir)
    assert embedded.postgres_is_running()
    assert not list(data_dir.glob("postgres-new-*"))
    later.leave()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_stopped_while_the_server_starts_takes_it_along(
    data_dir: Path, number: signal.Signals
) -> None:
    stopped = run_python(data_dir, "manage.py", "shell")
    wait_until(lambda: list(data_dir.glob("postgres-new-*/PG_VERSION")), "the first files")
    stopped.send_signal(number)
    assert stopped.wait(PATIENCE_SECONDS) != 0
    assert not Installation(data_dir).processes()


def test_a_lock_that_names_a_foreign_process_is_forgotten(data_dir: Path) -> None:
    """After a restart of the machine the killed server's number may be another program's."""
    killed = Joined(data_dir)
    number = kill_server(data_dir)
    killed.process.kill()
    killed.process.wait()
    lock = data_dir / "postgres" / "postmaster.pid"
    lock.write_text(lock.read_text().replace(str(number), str(os.getpid()), 1))
    assert not embedded.postgres_is_running()

    later = Joined(data_dir)
    assert later.url == killed.url
    assert embedded.postgres_is_running()
    later.leave()


def test_sockets_of_a_deep_data_directory_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep" * 30)
    monkeypatch.setenv("CBMIR_DATA_DIR", str(deep))
    folder = embedded.run_dir()
    try:
        assert len(str(folder / "redis.sock")) <= embedded.SOCKET_PATH_LIMIT
        assert folder == embedded.run_dir()
        assert folder.stat().st_mode & 0o777 == 0o700
        monkeypatch.setenv("CBMIR_DATA_DIR", str(deep / "other"))
        other = embedded.run_dir()
        other.rmdir()
        assert other != folder
    finally:
        folder.rmdir()


def test_a_short_data_directory_holds_its_sockets(data_dir: Path) -> None:
    assert embedded.run_dir() == data_dir.resolve() / "run"
    assert embedded.run_dir().stat().st_mode & 0o777 == 0o700


def test_given_servers_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://given/db")
    monkeypatch.setenv("REDIS_URL", "redis://given/1")
    monkeypatch.delenv("CBMIR_EMBEDDED_POSTGRES", raising=False)
    monkeypatch.delenv("CBMIR_EMBEDDED_REDIS", raising=False)
    embedded.ensure_environment()
    assert os.environ["DATABASE_URL"] == "postgresql://given/db"
    assert os.environ["REDIS_URL"] == "redis://given/1"
    assert not {"CBMIR_EMBEDDED_POSTGRES", "CBMIR_EMBEDDED_REDIS"} & set(os.environ)
    assert not (data_dir / "postgres").exists()
