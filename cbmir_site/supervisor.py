"""Starts the services of `manage.py run`, brings back what dies, and stops them all."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from cbmir_site import embedded

STOP_SECONDS = 6
RESTART_SECONDS = 2  # between two starts of a service that keeps dying


class AlreadyRunning(Exception):
    """Another `manage.py run` works on this data directory."""


@dataclass
class Service:
    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restarts: int = 0


@dataclass
class Supervisor:
    """Runs services as process groups of their own, each with its log in the data directory."""

    services: list[Service]
    report: Callable[[str], None]
    is_running: bool = False
    _lock: IO[str] | None = field(default=None, repr=False)

    @property
    def log_dir(self) -> Path:
        return embedded.data_dir() / "log"

    @property
    def _ledger(self) -> Path:
        return embedded.run_dir() / "services.json"

    def claim(self) -> None:
        """Take the data directory and end what outlived a killed supervisor. Raises AlreadyRunning."""
        self._lock = open(embedded.run_dir() / "run.lock", "w")  # noqa: SIM115 - held until the end
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning from None
        self._end_leftovers()

    def start(self) -> None:
        self.is_running = True
        self.log_dir.mkdir(parents=True, exist_ok=True)
        for service in self.services:
            self._start(service)

    def watch(self) -> None:
        """Bring back whatever has died; call it about twice a second."""
        if "CBMIR_EMBEDDED_POSTGRES" in os.environ and not embedded.postgres_is_running():
            self.report("PostgreSQL stopped; starting it again.")
            embedded.start_postgres()
        for service in self.services:
            ended = service.process is not None and service.process.poll() is not None
            if ended and time.monotonic() - service.started_at > RESTART_SECONDS:
                service.restarts += 1
                self.report(
                    f"{service.name} stopped; starting it again (see {self.log_dir / service.name}.log)."
                )
                self._start(service)

    def stop(self) -> None:
        """End every service that this supervisor started: politely first, then surely."""
        if not self.is_running:
            return
        running = [s.process for s in reversed(self.services) if s.process and s.process.poll() is None]
        for process in running:
            _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(process.pid, signal.SIGKILL)
        self._ledger.unlink(missing_ok=True)
        if "CBMIR_EMBEDDED_POSTGRES" in os.environ:
            embedded.stop_postgres()

    def _start(self, service: Service) -> None:
        with open(self.log_dir / f"{service.name}.log", "ab") as log:
            service.process = subprocess.Popen(
                service.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=embedded.BASE_DIR,
            )
        service.started_at = time.monotonic()
        self._write_ledger()

    def _write_ledger(self) -> None:
        processes = [s.process.pid for s in self.services if s.process and s.process.poll() is None]
        entries = [(pid, psutil.Process(pid).create_time()) for pid in processes if psutil.pid_exists(pid)]
        partial = self._ledger.with_suffix(".partial")
        partial.write_text(json.dumps(entries))
        partial.rename(self._ledger)  # a reader, or the start after a kill, never finds half of it

    def _leftovers(self) -> list[tuple[int, float]]:
        try:
            return [(pid, created) for pid, created in json.loads(self._ledger.read_text())]
        except (OSError, ValueError):
            return []

    def _end_leftovers(self) -> None:
        """End services that outlived a killed supervisor, so that two never work side by side."""
        for pid, created in self._leftovers():
            try:
                if abs(psutil.Process(pid).create_time() - created) < 1:
                    _signal_group(pid, signal.SIGKILL)
            except psutil.NoSuchProcess:
                # The leader is gone; members of its group (pool processes) may not be.
                _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def default_services(host: str, port: int) -> list[Service]:
    """Redis (when embedded), the web server, one worker per queue, and the schedule."""
    python = [sys.executable, "-m"]
    celery = [*python, "celery", "-A", "cbmir_site"]
    worker = [*celery, "worker", "--loglevel", "WARNING", "--without-mingle", "--without-gossip"]
    behind = ["nice", "-n", "10", *worker]  # searches and what answers them go first
    web = [*python, "gunicorn", "cbmir_site.wsgi", "--bind", f"{host}:{port}", "--worker-class", "gthread"]
    services = [
        Service("web", [*web, "--workers", "2", "--threads", "8", "--timeout", "300"]),
        Service(
            "inference", [*worker, "-Q", "inference", "-n", "inference@%h", "--pool", "threads", "-c", "1"]
        ),
        Service("indexing", [*behind, "-Q", "indexing", "-n", "indexing@%h", "--pool", "threads", "-c", "3"]),
        Service("ingest", [*behind, "-Q", "ingest", "-n", "ingest@%h", "-c", "1"]),
        Service("training", [*behind, "-Q", "training", "-n", "training@%h", "-c", "1"]),
        Service("upkeep", [*behind, "-Q", "upkeep", "-n", "upkeep@%h", "--pool", "threads", "-c", "1"]),
        Service("schedule", [*celery, "beat", "--loglevel", "WARNING"]),
    ]
    if "CBMIR_EMBEDDED_REDIS" in os.environ:
        services.insert(0, Service("redis", embedded.redis_command()))
    return services
