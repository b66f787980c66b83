"""From files to searchable images, and what that costs: a whole installation, thrown away afterwards.

    python -m benchmarks.importing ../shared/data --checkpoint DIR [--files 2000]

Three tables: where the CPU time of one uncompressed CT slice goes; images per second from the first byte sent
to the last image searchable, and of describing alone, beside the bare network in the same run; what searches
take and how much memory the processes hold meanwhile. The files are pictures of the folder's training split;
where there are fewer, they come again with a pixel changed.
"""

import argparse
import hashlib
import itertools
import os
import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pydicom
import requests
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.upload_to_results import ask, measured, median_p95, pictures
from cbmir_site import embedded
from tests.installation import Installation

SLICES = 201
FILES_PER_ARCHIVE = 250
IDLE_SEARCHES = 60
SETTLING_SECONDS = 30  # for indexes to be fitted after an import
QUARTERS = 4
PARTS = ("whole", "decoding", "network", "ranking", "rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--files", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # the embedded PostgreSQL runs as an account of its own under root
        place = Installation(folder / "data")
        place.data_dir.mkdir()
        os.environ["CBMIR_DATA_DIR"] = str(place.data_dir)
        os.environ["DJANGO_SETTINGS_MODULE"] = "cbmir_site.settings"
        embedded.ensure_environment()
        import django

        django.setup()
        console = Console(width=120)
        try:
            assert place.manage("migrate", "-v", "0").returncode == 0
            console.print(cost_of_a_slice(options.folder, folder / "slices"))
            bare = rate_of_bare_network(options.checkpoint)
            for table in whole_installation(place, options, bare):
                console.print(table)
        finally:
            if place.process:
                place.signal(signal.SIGINT)  # which stops the servers, too
            else:
                embedded.stop_postgres()


def cost_of_a_slice(data: Path, folder: Path) -> Table:
    """CPU milliseconds by step in this process and, for the whole, in the database's."""
    from ingest.deidentifying import deidentify
    from ingest.folders import import_path
    from ingest.reading import read_image
    from ingest.renditions import network_rendition, preview

    contents = list(slices(data))
    pixels = read_image(contents[0]).frames[0].pixels
    steps: dict[str, Callable[[], object]] = {
        "reading, decoding, windowing": lambda: read_image(contents[0]),
        "rendition of 256x256": lambda: network_rendition(pixels),
        "preview": lambda: preview(pixels),
        "de-identification": lambda: deidentify(contents[0]),
        "SHA-256, twice": lambda: [hashlib.sha256(contents[0]) for _ in range(2)],
    }
    rows, columns = pixels.shape
    table = Table("step", "CPU ms", title=f"One uncompressed CT slice of {rows}x{columns}")
    for name, step in steps.items():
        table.add_row(name, f"{statistics.median(measured(step, clock=time.process_time)):.1f}")
    for number, content in enumerate(contents):
        target = folder / ("slices" if number else "first") / f"{number}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    broker = subprocess.Popen(embedded.redis_command(), stdout=subprocess.DEVNULL)
    import_path(folder / "first", "slices")  # not measured: what is loaded and prepared once
    database, started = database_seconds(), time.process_time()
    import_path(folder / "slices", "slices")
    ours = time.process_time() - started
    broker.terminate()
    broker.wait()
    table.add_row(f"the whole import, mean of {number}", f"{1000 * ours / number:.1f}")
    table.add_row("in PostgreSQL meanwhile", f"{1000 * (database_seconds() - database) / number:.1f}")
    return table


def slices(data: Path) -> Iterator[bytes]:
    """An uncompressed CT slice of the folder as 512x512, each time with another bright pixel."""
    ds = pydicom.dcmread(data / "dicom" / "ct_colon_implicit_le.dcm")
    stored = np.resize(ds.pixel_array, (512, 512))
    ds.Rows, ds.Columns = stored.shape
    for number in range(SLICES):
        stored[0] = 0
        stored[0, number] = stored.max()  # where others have the least
        ds.PixelData = stored.tobytes()
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        buffer = BytesIO()
        ds.save_as(buffer)
        yield buffer.getvalue()


def database_seconds() -> float:
    """CPU time of the embedded server's processes so far."""
    folder = str(embedded.data_dir() / "postgres")
    running = psutil.process_iter(["cmdline"])
    servers = [process for process in running if folder in " ".join(process.info["cmdline"] or [])]
    children = [child for server in servers for child in server.children()]
    return sum(sum(process.cpu_times()[:2]) for process in servers + children)


def rate_of_bare_network(checkpoint: Path) -> float:
    """Images per second of the engine alone, on batches that are ready, two calls at a time."""
    from ml.checkpoint import load_checkpoint
    from ml.engines import engine_for

    loaded = load_checkpoint(checkpoint)
    engine = engine_for(loaded.network, "auto", calls_at_once=2)
    batch = loaded.preprocessing(np.zeros((engine.batch_size, 256, 256), np.uint8))
    with ThreadPoolExecutor(2) as pool:
        both = measured(lambda: list(pool.map(engine, [batch, batch])), 20)
    return 1000 * 2 * engine.batch_size / statistics.median(both)


def whole_installation(place: Installation, options: argparse.Namespace, bare: float) -> Iterator[Table]:
    from ingest.models import Image as StoredImage
    from ml.models import ModelVersion, RunStatus, TrainingRun, VersionStatus
    from ml.running import store_folder
    from search.models import Embedding

    store_folder(options.checkpoint, "models/benchmark")
    TrainingRun.objects.create(status=RunStatus.SUCCEEDED)  # or one begins by itself
    checkpoint = {"recipe": "default", "checkpoint": "models/benchmark"}
    version = ModelVersion.objects.create(**checkpoint, **names_in(options), status=VersionStatus.ACTIVE)
    place.start()
    place.manage("create_user", "benchmark", "--role", "integration")
    session = requests.Session()
    session.headers["Authorization"] = f"Token {place.manage('create_token', 'benchmark').stdout.strip()}"
    url = f"http://localhost:{place.port}"

    def described(by: ModelVersion) -> int:
        return Embedding.objects.for_version(by).count()

    wait_for(lambda: described(version) == StoredImage.objects.count())
    queries = pictures(options.folder, IDLE_SEARCHES)
    for path in queries[:10]:  # not measured: connections, caches
        ask(session, url, path)
    idle = [ask(session, url, path) for path in queries]
    archives = list(archives_of(options))  # made before the clock runs
    first = described(version)
    rates = Table("", "images/s", "of the bare network's", title=f"{options.files} files to searchable")
    with Watched(place, lambda: ask(session, url, random.choice(queries))) as watched:
        started = time.perf_counter()
        batch = session.post(url + "/api/v1/batches/", {"dataset": "benchmark"}).json()
        for archive in archives:
            files = {"file": ("files.zip", archive)}
            session.post(f"{url}/api/v1/batches/{batch['id']}/files/", files=files).raise_for_status()
        wait_for(
            lambda: (
                session.get(f"{url}/api/v1/batches/{batch['id']}/").json()["state"] == "finished"
                and described(version) == StoredImage.objects.count()
            )
        )
        seconds = time.perf_counter() - started
    searchable = (described(version) - first) / seconds
    time.sleep(SETTLING_SECONDS)
    afterwards = [ask(session, url, path) for path in queries]
    rates.add_row("sent, imported and searchable", f"{searchable:.1f}", f"{searchable / bare:.0%}")
    second = ModelVersion.objects.create(**checkpoint, **names_in(options), status=VersionStatus.TRAINED)
    second.request_activation()
    wait_for(lambda: described(second) > 0)  # not measured: loading the network
    before, started = described(second), time.perf_counter()
    wait_for(lambda: described(second) == StoredImage.objects.count())
    describing = (described(second) - before) / (time.perf_counter() - started)
    rates.add_row("described under another version", f"{describing:.1f}", f"{describing / bare:.0%}")
    rates.add_row("peer: the bare network, in batches", f"{bare:.1f}", "")
    yield rates
    searches = Table("", *PARTS, title="Searches by upload, ms: median / p95")
    searches.add_row("idle, before", *parts_of(idle))
    searches.add_row(f"during the import ({len(watched.searches)})", *parts_of(watched.searches))
    searches.add_row("idle, afterwards: a larger collection", *parts_of(afterwards))
    yield searches
    quarters = [f"quarter {number}" for number in range(1, QUARTERS + 1)]
    memory = Table("", *quarters, title="Memory, MB at most in each quarter of the time")
    for kind, megabytes in watched.megabytes_by_quarter():
        memory.add_row(kind, *[f"{most:,.0f}" for most in megabytes])
    yield memory


def parts_of(searches: list[dict[str, float]]) -> list[str]:
    return [median_p95([search[part] for search in searches]) for part in PARTS]


def names_in(options: argparse.Namespace) -> dict[str, list[str]]:
    from ml.checkpoint import load_checkpoint

    loaded = load_checkpoint(options.checkpoint)
    return {"organs": loaded.organs, "modalities": loaded.modalities}


def archives_of(options: argparse.Namespace) -> Iterator[bytes]:
    paths = sorted((options.folder / "organs").rglob("*.*"))
    random.Random(0).shuffle(paths)
    again = itertools.cycle(paths)
    for start in range(0, options.files, FILES_PER_ARCHIVE):
        buffer = BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for number in range(start, min(start + FILES_PER_ARCHIVE, options.files)):
                path = next(again)
                content = path.read_bytes() if number < len(paths) else changed(path, number // len(paths))
                archive.writestr(f"{number}-{path.name}", content)
        yield buffer.getvalue()


def changed(path: Path, number: int) -> bytes:
    with Image.open(path) as opened:
        picture = opened.convert("L")
    picture.putpixel((0, 0), number)
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def wait_for(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.5)


@dataclass
class Watched:
    """Searches, one after the other with a second between, and the memory of an installation's processes."""

    place: Installation
    search: Callable[[], dict[str, float]]
    searches: list[dict[str, float]] = field(default_factory=list)
    megabytes: list[Counter[str]] = field(default_factory=list)  # by kind of process
    is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watched":
        self.threads = [threading.Thread(target=self.keep_searching), threading.Thread(target=self.weigh)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join()

    def keep_searching(self) -> None:
        while not self.is_over.wait(1):
            self.searches.append(self.search())

    def weigh(self) -> None:
        """Memory of its own of each process: what is shared, PostgreSQL's buffers above all, counts once."""
        while not self.is_over.wait(5):
            sizes = Counter[str]()
            for process in self.place.processes():
                with suppress(psutil.Error):
                    sizes[kind_of(process)] += process.memory_full_info().pss // 2**20
            self.megabytes.append(sizes)

    def megabytes_by_quarter(self) -> Iterator[tuple[str, list[float]]]:
        for kind in sorted(set().union(*self.megabytes)):
            yield kind, most_by_quarter([sizes[kind] for sizes in self.megabytes])
        yield "all", most_by_quarter([sizes.total() for sizes in self.megabytes])


def most_by_quarter(numbers: list[int]) -> list[float]:
    return [max(part, default=0.0) for part in np.array_split(numbers, QUARTERS)]


def kind_of(process: psutil.Process) -> str:
    """A worker by what it listens to, everything else by its program."""
    words = process.cmdline()
    if "-Q" in words:
        return f"worker, {words[words.index('-Q') + 1]}"
    return "web" if "gunicorn" in " ".join(words) else process.name()


if __name__ == "__main__":
    main()
