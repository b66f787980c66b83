"""The product's own services as processes: the web server and one worker per queue, on the test database."""

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cbmir_site.supervisor import Service, default_services
from tests.processes import ROOT, environment, free_port, wait_until

SERVICES = {"web", "inference", "indexing", "ingest", "training", "upkeep"}


@dataclass
class Services:
    """The running processes by name, each the leader of a group of its own."""

    media_root: Path
    log_dir: Path
    port: int = field(default_factory=lambda: free_port())
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, names: set[str] = SERVICES) -> None:
        for service in default_services("127.0.0.1", self.port):
            if service.name in names:
                self.processes[service.name] = self._start(service)
        wait_until(self.answers, f"the web server, see {self.log_dir}")

    def _start(self, service: Service) -> subprocess.Popen[bytes]:
        with open(self.log_dir / f"{service.name}.log", "wb") as log:
            return subprocess.Popen(
                service.command,
                cwd=ROOT,
                env=environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/healthz", timeout=5):
                return True
        except OSError:
            return False

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """The service stands still meanwhile, so that what it has to do waits."""
        os.killpg(self.processes[name].pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.processes[name].pid, signal.SIGCONT)

    @contextmanager
    def dead(self, name: str) -> Iterator[None]:
        """The service is killed, and another one started after."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()
        yield
        services = {service.name: service for service in default_services("127.0.0.1", self.port)}
        self.processes[name] = self._start(services[name])
        wait_until(self.answers, f"the web server, see {self.log_dir}")

    def stop(self) -> None:
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes.values():
            process.wait()
