"""A training run's row: how far it is, told while it runs, and whether someone cancelled it."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from ml.locks import lock_run
from ml.models import RunStatus, TrainingRun
from ml.training import Progress, Stopped
from ml.training_images import TrainingError

logger = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
MOST_STARTS = 5  # without finishing an epoch


class Recorder:
    """Writes progress at most once a second. Raises Stopped where the run is not ours to go on with."""

    def __init__(
        self, run: TrainingRun, on_update: Callable[[TrainingRun], None], interrupted: Callable[[], bool]
    ) -> None:
        self.run, self.on_update, self.interrupted = run, on_update, interrupted
        self.cancelled = False
        self.taken_over = False  # by another worker, while the database was away
        self._written = 0.0
        self._connected = True

    def start(self) -> None:
        """Raises TrainingError when the run was cut off again and again."""
        starts = self.run.progress.get("starts", 0) + 1
        TrainingRun.objects.filter(pk=self.run.pk, status=RunStatus.QUEUED).update(
            status=RunStatus.RUNNING, started_at=timezone.now()
        )
        self.run.refresh_from_db()
        self.run.progress["starts"] = starts
        self.write(at_once=True)
        if starts > MOST_STARTS:
            raise TrainingError(
                f"The training was cut off {MOST_STARTS} times before it finished an epoch. "
                "The machine may be short of memory."
            )

    def say(self, message: str) -> None:
        """Tell what is being done besides learning."""
        self.run.progress["message"] = message
        self.write()
        if self.should_stop():
            raise Stopped

    def on_progress(self, progress: Progress) -> None:
        """Raises TrainingError when the network no longer learns."""
        if not math.isfinite(progress.loss):
            raise TrainingError("The training diverged: its loss is no longer a number.")
        numbers: dict[str, Any] = asdict(progress)
        finished = numbers.pop("finished_epoch")
        starts = 0 if finished else self.run.progress["starts"]
        self.run.progress = {**numbers, "message": "", "starts": starts}
        if finished:
            earlier = [epoch for epoch in self.run.history if epoch["epoch"] < finished["epoch"]]
            self.run.history = [*earlier, finished]
        self.write(at_once=bool(finished))

    def should_stop(self) -> bool:
        return self.cancelled or self.taken_over or self.interrupted()

    def write(self, at_once: bool = False) -> None:
        self.on_update(self.run)
        if not at_once and time.monotonic() - self._written < WRITE_SECONDS:
            return
        self._written = time.monotonic()
        try:
            if not self._connected and not lock_run(self.run.pk):
                self.taken_over = True
                return
            self._connected = True
            self.cancelled = not self.running().update(progress=self.run.progress, history=self.run.history)
        except (OperationalError, InterfaceError):
            logger.warning("The database is away; training run %s goes on.", self.run.pk)
            connection.close()
            self._connected = False

    def running(self) -> Any:
        """The run's row as long as it is being trained."""
        return TrainingRun.objects.filter(pk=self.run.pk, status=RunStatus.RUNNING)

    def end(self, status: RunStatus, error: str = "") -> bool:
        """False when the run had been cancelled or deleted."""
        ended = self.running().update(
            status=status,
            error=error,
            finished_at=timezone.now(),
            progress=self.run.progress,
            history=self.run.history,
        )
        if ended:
            self.run.refresh_from_db()
            self.on_update(self.run)
        return bool(ended)
