"""Nothing is lost while workers, broker and database are killed: a small round of benchmarks.nothing_lost."""

import subprocess
import sys

from tests.processes import ROOT


def test_nothing_is_lost_and_nothing_is_there_twice() -> None:
    command = [sys.executable, "-m", "benchmarks.nothing_lost", "--files", "200", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--kills", "6", "--seed", "3"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing was lost, nothing is there twice." in done.stdout
