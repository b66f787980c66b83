"""A small installation in a data directory of its own, run and killed as a person would."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.processes import PATIENCE_SECONDS, ROOT, free_port, wait_until

# Six images and a version to describe them with, so that nothing is imported or trained at the start.
SETTLE = """
from tests import factories
from ml.models import RunStatus, TrainingRun
for number in range(6):
    factories.make_image(number, ("brain", "chest")[number % 2])
factories.make_model_version()
TrainingRun.objects.create(status=RunStatus.SUCCEEDED)
"""


@dataclass
class Installation:
    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def _env(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CBMIR_", "DATABASE", "REDIS"))}
        return {**inherited, "CBMIR_DATA_DIR": str(self.data_dir), **self.environment}

    @property
    def _output_file(self) -> Path:
        return self.data_dir / "run.out"

    @property
    def output(self) -> str:
        return self._output_file.read_text()

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    def evaluate(self, code: str) -> str:
        """What `code` prints in a Django shell of this installation."""
        done = self.manage("shell", "-v", "0", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def settle(self) -> None:
        assert self.manage("migrate", "-v", "0").returncode == 0
        self.evaluate(SETTLE)

    def start(self) -> None:
        """Start, unless it runs, and wait until it says that it is ready."""
        if self.process and self.process.poll() is None:
            return
        with open(self._output_file, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run", "--port", str(self.port)],
                cwd=ROOT,
                env=self._env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = self.process
        wait_until(lambda: "Ready:" in self.output or process.poll() is not None, "the start")
        assert process.poll() is None, self.output

    def signal(self, number: signal.Signals) -> None:
        """To `manage.py run` alone, and wait for its end."""
        assert self.process
        self.process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)

    def processes(self) -> list[psutil.Process]:
        """Whatever this installation has started and left running, PostgreSQL and Redis included."""
        found = {process for process in psutil.process_iter() if self._is_ours(process)}
        return list(found | {child for process in found for child in children_of(process)})

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            named = str(self.data_dir) in " ".join(process.cmdline())
            return named or process.environ().get("CBMIR_DATA_DIR") == str(self.data_dir)
        except psutil.Error:
            return False

    def kill(self) -> None:
        """kill -9 of everything at once."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process:
            self.process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not self.processes(), "the end of all processes")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://localhost:{self.port}/healthz", timeout=5) as page:
                return bool(page.status == 200)
        except OSError:
            return False

    def passwords(self) -> dict[str, str]:
        """Password by account, as printed."""
        return dict(re.findall(r"│ (\w+) +│ \w+ +│ (\S+) +│", self.output))


def children_of(process: psutil.Process) -> Iterator[psutil.Process]:
    try:
        yield from process.children(recursive=True)
    except psutil.Error:
        return
