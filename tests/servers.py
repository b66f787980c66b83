"""Loaded before Django's settings are: the tests run on embedded servers of their own."""

import atexit
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from cbmir_site import embedded

_folder = tempfile.TemporaryDirectory(prefix="cbmir-test-", ignore_cleanup_errors=True)
DATA_DIR = Path(_folder.name)
DATA_DIR.chmod(0o755)  # the embedded PostgreSQL runs as an account of its own when the tests run as root


def start() -> None:
    # Under a shell's "&" SIGINT is ignored, by all processes started from here too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:  # each core has its own tests: threads would wait for one another
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    os.environ["CBMIR_DATA_DIR"] = str(DATA_DIR)
    os.environ["CBMIR_DEBUG"] = "0"
    for name in ("DATABASE_URL", "REDIS_URL", "CBMIR_REPLICA_URL"):
        os.environ.pop(name, None)
    embedded.ensure_environment()
    redis = subprocess.Popen(embedded.redis_command())
    atexit.register(redis.kill)
    deadline = time.monotonic() + 10
    while not (embedded.run_dir() / "redis.sock").exists():
        if time.monotonic() > deadline or redis.poll() is not None:
            raise RuntimeError("The embedded Redis did not start.")
        time.sleep(0.05)


start()
