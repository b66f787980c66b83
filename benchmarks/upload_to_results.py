"""From an upload to its ranked results over HTTP, against a running server and its collection.

    python -m benchmarks.upload_to_results --data ../shared/data --token TOKEN [--url http://localhost:8000]

Each query: POST the file, wait for the answer, GET the first page of results (as the page for people does).
The parts come from the Server-Timing header; "rest" is what is left of the whole: HTTP, login, queue, rows,
JSON. Peers in the same run: the bare server (its health page) and the bare network in this process.
"""

import argparse
import csv
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import track
from rich.table import Table

PARTS = ["whole", "decoding", "network", "ranking", "rest"]


def main() -> None:
    options = parse_options()
    session = requests.Session()
    session.headers["Authorization"] = f"Token {options.token}"
    files = {
        "PNG and JPEG (test split)": pictures(options.data, options.queries),
        "DICOM": dicom_files(options.data, options.queries),
    }
    for path in [paths[0] for paths in files.values()] * 2:  # not measured: connections, caches
        ask(session, options.url, path)
    console = Console()
    table = Table("milliseconds: median / p95", "n", *PARTS, title="From upload to results")
    for name, paths in files.items():
        seen = [ask(session, options.url, path) for path in track(paths, name, transient=True)]
        table.add_row(name, str(len(seen)), *(median_p95([times[part] for times in seen]) for part in PARTS))
    health = measured(lambda: session.get(options.url + "/healthz").raise_for_status())
    table.add_row("peer: the server's health page", "50", median_p95(health), "", "", "", "")
    table.add_row("peer: the bare network, one image", "50", median_p95(bare_network()), "", "", "", "")
    console.print(table)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and dicom/")
    parser.add_argument("--token", required=True, help="of an integration account: manage.py create_token")
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    return parser.parse_args()


def pictures(data: Path, number: int) -> list[Path]:
    with (data / "manifest.csv").open() as file:
        paths = [data / row["path"] for row in csv.DictReader(file) if row["split"] == "test"]
    return random.Random(0).sample(paths, min(number, len(paths)))


def dicom_files(data: Path, number: int) -> list[Path]:
    """Readable ones of every kind, over and over where there are fewer than `number`."""
    with (data / "dicom" / "dicom_manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["decodes"] != "no" and "broken" not in row["path"]]
    return random.Random(0).choices([data / "dicom" / row["path"] for row in rows], k=number)


def ask(session: requests.Session, url: str, path: Path) -> dict[str, float]:
    """Milliseconds of one query, by part."""
    started = time.perf_counter()
    query = session.post(url + "/api/v1/queries/", files={"file": path.read_bytes()})
    query.raise_for_status()
    answer = session.get(query.json()["url"], params={"wait": 10}).json()
    if answer["status"] != "answered":
        raise SystemExit(f"{path.name} was not answered: {answer['error'] or answer['status']}")
    page = session.get(answer["results_url"], params={"page_size": 24})
    page.raise_for_status()
    times = {"whole": 1000 * (time.perf_counter() - started)}
    for part in page.headers["Server-Timing"].split(", "):
        name, _, milliseconds = part.partition(";dur=")
        times[name] = float(milliseconds)
    times["rest"] = times["whole"] - times["decoding"] - times["network"] - times["ranking"]
    return times


def bare_network() -> list[float]:
    import torch

    from ml.network import NetworkShape, OrganNetwork

    network = OrganNetwork(NetworkShape(19, 9)).eval()
    image = torch.rand(1, 1, 224, 224)
    with torch.inference_mode():
        return measured(lambda: network(image))


def measured(
    call: Callable[[], object], times: int = 50, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Milliseconds of each call after a few that are not measured."""
    seen = []
    for _ in range(times + 5):
        started = clock()
        call()
        seen.append(1000 * (clock() - started))
    return seen[5:]


def median_p95(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} / {statistics.quantiles(values, n=20)[-1]:.0f}"


if __name__ == "__main__":
    main()
