"""Files come in while workers, broker and database are killed at random: is everything there, and once?

    python -m benchmarks.nothing_lost [--files 2000] [--rounds 20] [--kills 10] [--seed 1] [--dir FOLDER]

An installation of its own: embedded PostgreSQL and Redis, two ingest workers, the others and the
schedule, brought back by the supervisor of `manage.py run`. A tiny untrained network takes the place of a
large one. In each round files are received (PNG and DICOM, some twice, some broken) while
processes get SIGKILL; when nothing is left to do, ledger, images, embeddings and stored files are compared
with what was sent. The seed makes files, victims and pauses again, though not the moments to the
millisecond. The exit status is 1 when anything is wrong.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from cbmir_site.supervisor import Supervisor
    from ingest.models import UploadBatch

DOUBLE, BROKEN, DICOM = 0.1, 0.05, 0.3  # shares of the files that are sent
PAUSES = (0.2, 4.0)  # seconds between two kills
PATIENCE_SECONDS = 600  # until nothing is left to do; dead readers are noticed after a minute
DATABASE, EVERYTHING = "PostgreSQL", "everything"
WORKERS = 4  # two that import, one that describes, one for upkeep


@dataclass(frozen=True)
class SentFile:
    path: str
    content: bytes
    is_broken: bool = False


@dataclass
class Round:
    """What happened in a round, and what was found wrong after it."""

    number: int
    files: int
    seconds: float = 0.0
    victims: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    taken_up_again: int = 0  # files whose first reader died
    faults: list[str] = field(default_factory=list)


def main() -> None:
    options = parse_options()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}: python -m benchmarks.nothing_lost --files {options.files} --rounds "
          f"{options.rounds} --kills {options.kills} --seed {seed}", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="cbmir-", ignore_cleanup_errors=True) as temporary:
        folder = options.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # the embedded PostgreSQL runs as an account of its own under root
        supervisor = start_installation(folder)
        try:
            wait_for_workers(supervisor)
            rounds = list(run_rounds(supervisor, options, random.Random(seed)))
            faults = [fault for each in rounds for fault in each.faults] + faults_of_collection(deep=True)
        finally:
            supervisor.stop()
    Console().print(table_of(rounds))
    for fault in faults:
        print(fault)
    print(f"{len(faults)} faults (seed {seed})" if faults else "Nothing was lost, nothing is there twice.")
    sys.exit(bool(faults))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="of each round")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10, help="in each round")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, default=1e9, help="No round begins after so many.")
    parser.add_argument("--dir", type=Path, help="A new folder for the installation, which is then kept.")
    return parser.parse_args()


def start_installation(folder: Path) -> "Supervisor":
    """Servers, workers and a version in service, in a data directory under `folder`."""
    for name in [name for name in os.environ if name.startswith(("CBMIR_", "DATABASE_", "REDIS_"))]:
        del os.environ[name]
    os.environ |= {"CBMIR_DATA_DIR": str(folder / "data"), "DJANGO_SETTINGS_MODULE": "cbmir_site.settings"}
    from cbmir_site import embedded
    from cbmir_site.supervisor import Service, Supervisor, default_services

    embedded.ensure_environment()
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from tests.factories import make_model_version

    make_model_version()
    services = [s for s in default_services("127.0.0.1", 0) if s.name not in ("web", "training")]
    (ingest,) = [s for s in services if s.name == "ingest"]
    second = [word.replace("ingest@", "ingest2@") for word in ingest.command]
    supervisor = Supervisor([*services, Service("ingest2", second)], report=lambda line: None)
    supervisor.claim()
    supervisor.start()
    return supervisor


def wait_for_workers(supervisor: "Supervisor") -> None:
    """Until they listen: what is killed while it starts has nothing to lose."""
    from celery import current_app

    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(current_app.control.ping(timeout=1) or []) < WORKERS and time.monotonic() < deadline:
        watch(supervisor, 1)


def run_rounds(supervisor: "Supervisor", options: argparse.Namespace, rng: random.Random) -> Iterator[Round]:
    started = time.monotonic()
    for number in range(1, options.rounds + 1):
        if time.monotonic() - started > 60 * options.minutes:
            return
        seen = run_round(supervisor, number, options.files, options.kills, rng)
        print(f"round {number}: {seen.seconds:.0f} s, killed {dict(seen.victims)}, {dict(seen.states)}, "
              f"{seen.taken_up_again} taken up again, {len(seen.faults)} faults", flush=True)  # fmt: skip
        for fault in seen.faults:
            print(f"  {fault}", flush=True)
        yield seen


def run_round(supervisor: "Supervisor", number: int, files: int, kills: int, rng: random.Random) -> Round:
    from ingest.receiving import open_batch

    started, seen = time.monotonic(), Round(number, files)
    sent = list(files_to_send(number, files, rng))
    batch = open_batch(f"round {number}", "dicom", None)
    sender = threading.Thread(target=send, args=(batch, sent))
    sender.start()
    for _ in range(kills):
        watch(supervisor, rng.uniform(*PAUSES))
        seen.victims[kill_something(supervisor, rng)] += 1
    while sender.is_alive():
        watch(supervisor, 0.5)
    if not settled(supervisor):
        seen.faults.append(f"round {number}: after {PATIENCE_SECONDS} s there is still something to do")
    seen.seconds = time.monotonic() - started
    inspect_round(seen, batch, sent)
    seen.faults += faults_of_collection() + processes_left_behind(supervisor)
    return seen


def files_to_send(number: int, files: int, rng: random.Random) -> Iterator[SentFile]:
    """Distinct files, and some of them twice; others are cut off."""
    import numpy as np

    from tests.factories import dicom_bytes, png_bytes

    earlier: list[bytes] = []
    for index in range(files):
        draw = rng.random()
        if earlier and draw < DOUBLE:
            yield SentFile(f"{index}.again", rng.choice(earlier))
            continue
        pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (32, 32), np.uint8)
        is_dicom = rng.random() < DICOM
        content = dicom_bytes(pixels, seed=number * 10**6 + index) if is_dicom else png_bytes(pixels)
        if draw < DOUBLE + BROKEN:
            yield SentFile(f"{index}.broken", content[: len(content) // 2], is_broken=True)
        else:
            earlier.append(content)
            yield SentFile(f"{index}.{'dcm' if is_dicom else 'png'}", content)


def send(batch: "UploadBatch", sent: list[SentFile]) -> None:
    """Receive the files as a page or a command does; as a person would, again where it failed."""
    from django.db import Error, connection

    from ingest.bell import ring
    from ingest.receiving import receive_file

    for index, file in enumerate(sent):
        while True:
            try:
                if not batch.files.filter(path=file.path).exists():  # or it was received, and nobody told
                    receive_file(batch, file.path, file.content)
                if index % 50 == 0:
                    ring("ingest.import_queued_files")
                break
            except Error:
                connection.close()
                time.sleep(0.2)
    connection.close()


def watch(supervisor: "Supervisor", seconds: float) -> None:
    """Let the supervisor bring back what died, as `manage.py run` does."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        supervisor.watch()
        time.sleep(min(0.2, left))


def kill_something(supervisor: "Supervisor", rng: random.Random) -> str:
    """SIGKILL for the database, a service, or all of them at once; tells which."""
    often = [DATABASE, "redis", "ingest", "ingest2", "inference", "indexing"]
    victim = rng.choice([*often, *often, "upkeep", "schedule", EVERYTHING])
    how = rng.random()
    if victim in (DATABASE, EVERYTHING):
        kill_postmaster()
    for service in supervisor.services:
        if service.process and victim in (service.name, EVERYTHING):
            kill_service(service.process.pid, 0.0 if victim == EVERYTHING else how, rng)
    return victim


def kill_postmaster() -> None:
    """The processes that it has started notice, and end themselves."""
    from cbmir_site import embedded

    with suppress(OSError, ValueError):
        lock = embedded.data_dir() / "postgres" / "postmaster.pid"
        os.kill(int(lock.read_text().split("\n", 1)[0]), signal.SIGKILL)


def kill_service(leader: int, how: float, rng: random.Random) -> None:
    """The whole group, its leader alone, or one of those that the leader has started."""
    with suppress(OSError, psutil.Error):
        if how < 0.5:
            os.killpg(leader, signal.SIGKILL)
        elif how < 0.75:
            os.kill(leader, signal.SIGKILL)
        elif children := psutil.Process(leader).children(recursive=True):
            rng.choice(children).kill()


def settled(supervisor: "Supervisor") -> bool:
    """Whether in the end no file waits, or waits to be tidied after, and no image lacks its embedding."""
    from django.db import Error, connection

    from ingest.models import UploadedFile
    from ml.models import ModelVersion
    from search.indexing import images_missing

    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        watch(supervisor, 0.5)
        try:
            version = ModelVersion.objects.active()
            assert version
            waiting = UploadedFile.objects.unfinished() | UploadedFile.objects.filter(
                claimed_at__isnull=False
            )
            if not waiting.exists() and not images_missing(version).exists():
                return True
        except Error:
            connection.close()
    return False


def inspect_round(seen: Round, batch: "UploadBatch", sent: list[SentFile]) -> None:
    """Compare the ledger and the images with what was sent, file by file."""
    import hashlib

    from django.db import connection

    from ingest.models import FileState, Image

    connection.close()
    rows = {row.path: row for row in batch.files.all()}
    seen.states = Counter(row.state for row in rows.values())
    seen.taken_up_again = sum(row.attempts > 1 for row in rows.values())

    def fault(text: str) -> None:
        seen.faults.append(f"round {seen.number}: {text}")

    if batch.files.count() != len(sent) or rows.keys() != {file.path for file in sent}:
        fault(f"{len(sent)} files were sent, the ledger has {batch.files.count()}")
    imported: Counter[str] = Counter()
    wanted = set()
    for file in sent:
        digest = hashlib.sha256(file.content).hexdigest()
        row = rows.get(file.path)
        state = row.state if row else "lost"
        if file.is_broken:
            good = bool(row) and state == FileState.REJECTED and row.reason_code == "damaged"  # type: ignore[union-attr]
        else:
            wanted.add(digest)
            good = state in (FileState.IMPORTED, FileState.DUPLICATE)
            imported[digest] += state == FileState.IMPORTED
        if not good:
            fault(f"{file.path} ended as {state} {row.reason_code if row else ''}")
    if twice := [digest for digest in wanted if imported[digest] != 1]:
        fault(f"{len(twice)} files were imported twice, or none of their copies was")
    images = Counter(Image.objects.filter(uploaded_file__batch=batch).values_list("sha256", flat=True))
    if images != Counter(wanted):
        fault(f"{len(wanted)} images were wanted, there are {images.total()}")


def faults_of_collection(deep: bool = False) -> list[str]:
    """What check_collection finds, young files and images not spared; of everything that came in so far."""
    from ingest.checking import FOLDERS, check_images, check_ledger, stored_names
    from ingest.models import Image, UploadedFile
    from ingest.storing import original_name
    from search.checking import check_embeddings
    from search.models import Embedding

    findings = [*check_ledger(), *check_images(deep=deep), *check_embeddings()]
    faults = [f"{finding.count} {finding.words}" for finding in findings if finding.count]
    needed = set()
    for names in Image.objects.values_list("original", "rendition", "preview"):
        needed |= set(names)
    kept = UploadedFile.objects.needing_bytes().values_list("sha256", flat=True)
    needed |= {original_name(sha256) for sha256 in kept}
    stored = {name for folder in FOLDERS for names in stored_names(folder) for name in names}
    if stored != needed:
        extra, missing = stored - needed, needed - stored
        faults.append(
            f"{len(extra)} stored files that nothing needs {sorted(extra)[:2]}, {len(missing)} lost"
        )
    if Embedding.objects.count() != Image.objects.count():
        faults.append(f"{Image.objects.count()} images have {Embedding.objects.count()} embeddings")
    return faults


def processes_left_behind(supervisor: "Supervisor") -> list[str]:
    """Processes of services that were started anew since, still at work beside their successors."""
    groups = {service.process.pid for service in supervisor.services if service.process}
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            ours = process.environ().get("CBMIR_DATA_DIR") == os.environ["CBMIR_DATA_DIR"]
            is_worker = "celery" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
            if ours and is_worker and os.getpgid(process.pid) not in groups:
                left.append(process)
    return [f"{len(left)} processes of killed services are left"] if left else []


def table_of(rounds: list[Round]) -> Table:
    table = Table("round", "s", "kills", "sent", "imported", "twice", "rejected", "again", "faults")
    for each in rounds:
        states = [each.states[state] for state in ("imported", "duplicate", "rejected")]
        numbers = [each.victims.total(), each.files, *states, each.taken_up_again, len(each.faults)]
        table.add_row(str(each.number), f"{each.seconds:.0f}", *map(str, numbers))
    victims = sum((each.victims for each in rounds), Counter[str]())
    table.caption = "killed: " + ", ".join(f"{name} {count}" for name, count in victims.most_common())
    return table


if __name__ == "__main__":
    main()
