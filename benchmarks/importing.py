"""Images per second of import into an empty installation of its own, thrown away afterwards.

    python -m benchmarks.importing ../shared/data [--files 1000]

Peer in the same run: the same files only decoded, scaled to 256x256 and encoded, with pydicom and Pillow and
nothing else: no ledger, no hash, no window, no preview, no label, no database. The CPU time is that of this
process: what the database takes is not in it.
"""

import argparse
import os
import random
import subprocess
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from PIL import Image
from rich.console import Console
from rich.table import Table

from cbmir_site import embedded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1000)
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix in {".dcm", ".jpg", ".png"})
    paths = random.Random(0).sample(paths, min(options.files, len(paths)))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        sample = Path(folder) / "sample"
        for path in paths:
            copy = sample / path.relative_to(options.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        cpu_started = time.process_time()
        bare = seconds_of_bare_decoding(paths)
        bare_cpu = time.process_time() - cpu_started
        report = report_of_import(Path(folder), sample)
    table = Table("", "files", "seconds", "files/s", "CPU ms/file", title="Import")
    for name, seconds, cpu_seconds in (
        ("peer: decode, scale, encode", bare, bare_cpu),
        ("import_images", report["seconds"], report["cpu_seconds"]),
    ):
        cpu_ms = 1000 * cpu_seconds / len(paths)
        table.add_row(name, str(len(paths)), f"{seconds:.1f}", f"{len(paths) / seconds:.0f}", f"{cpu_ms:.1f}")
    Console().print(table)
    print(f"{report['images']} images; rejected: {report['rejected'] or 'none'}")


def seconds_of_bare_decoding(paths: list[Path]) -> float:
    started = time.perf_counter()
    for path in paths:
        try:
            if path.suffix == ".dcm":
                picture = Image.fromarray((pydicom.dcmread(path).pixel_array >> 4).astype("uint8"))
            else:
                picture = Image.open(path)
            picture.convert("L").resize((256, 256), Image.Resampling.BILINEAR).save(BytesIO(), "PNG")
        except Exception as error:
            print(f"the peer does not read {path.name}: {str(error).splitlines()[0][:80]}")
    return time.perf_counter() - started


def report_of_import(folder: Path, sample: Path) -> dict[str, Any]:
    """Import with embedded servers under `folder`."""
    folder.chmod(0o755)  # the embedded PostgreSQL runs as an account of its own under root
    os.environ |= {"CBMIR_DATA_DIR": str(folder / "data"), "DJANGO_SETTINGS_MODULE": "cbmir_site.settings"}
    embedded.ensure_environment()
    redis = subprocess.Popen(embedded.redis_command(), stdout=subprocess.DEVNULL)
    try:
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        from ingest.folders import import_path
        from ingest.reports import batch_report

        started, cpu_started = time.perf_counter(), time.process_time()
        batch = import_path(sample, "benchmark", "", makes_organs=True)
        cpu_seconds = time.process_time() - cpu_started
        return {**batch_report(batch, time.perf_counter() - started), "cpu_seconds": cpu_seconds}
    finally:
        redis.terminate()
        embedded.stop_postgres()


if __name__ == "__main__":
    main()
