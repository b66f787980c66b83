"""`make run` on a fresh machine, with the product's own packages alone: gets searchable, stops clean."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

PORT = "8017"
LIMIT_SECONDS = 900  # installation included


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cbmir-ci-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # the embedded PostgreSQL runs as an account of its own under root
        environment = {**os.environ, "CBMIR_DATA_DIR": folder}
        run = subprocess.Popen(
            ["make", "run", f"PORT={PORT}"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started, output = time.monotonic(), []
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(run.pid, signal.SIGKILL))
        signal.alarm(LIMIT_SECONDS)
        assert run.stderr
        for line in run.stderr:
            output.append(line)
            if line.startswith("Ready:"):
                break
        else:
            sys.exit("".join(output) + "\nmake run did not get ready.")
        with urllib.request.urlopen(f"http://localhost:{PORT}/accounts/login/", timeout=10) as page:
            assert page.status == 200
        print(f"make run was ready after {time.monotonic() - started:.0f} s, installation included.")
        os.killpg(run.pid, signal.SIGINT)
        run.stderr.read()
        run.wait(60)


if __name__ == "__main__":
    main()
