"""Nothing is lost while workers, broker and database are killed: a small round of benchmarks.nothing_lost."""

import subprocess
import sys

import pytest

from tests.processes import ROOT


@pytest.mark.parametrize("seed", ["3"])
def test_nothing_is_lost_and_nothing_is_there_twice(seed: str) -> None:
    command = [sys.executable, "-m", "benchmarks.nothing_lost", "--files", "60", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--kills", "8", "--seed", seed], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing was lost, nothing is there twice." in done.stdout
