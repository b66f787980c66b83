"""Searching N embeddings: the database beside FAISS in process, in one run and one table.

    python -m benchmarks.search --checkpoint DIR --data ../shared/data --size 100000 [--dir DIR]

The embeddings are FC1 of the training images of --data, enlarged: each new one lies between two neighbours of
its organ, with noise. Asked is with images of the test split. Recall@20 is against an exact scan in float32.
--dir keeps database and features, so that another run begins where this one got; the embedded server in it
is stopped at the end. Ours, and the peers in the database, are asked through Django as the pages ask.
"""

import argparse
import io
import multiprocessing
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

NEAREST = 20
CHUNK = 10_000
CLIENTS = 8
MOST_IN_MEMORY = 200_000  # vectors that FAISS is given: 16 KB each, and half as much again for HNSW
FAISS_LINKS = 16
HNSW_EF = (64, 128, 256, 512, 1024, 2048)
BIT_CANDIDATES = (200, 400, 800)

Vectors = NDArray[np.float32]
Search = Callable[[int], list[int]]  # number of a query -> rows of the collection, nearest first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="How long each number of clients asks.")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="Rows whose name contains one of these.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = options.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # the embedded PostgreSQL runs as an account of its own
        os.environ["CBMIR_DATA_DIR"] = str(folder)
        from cbmir_site import embedded

        embedded.ensure_environment()
        start_django()
        made = MadeCollection(real_features(options, folder), options.size)
        Benchmark(made, options).run()


def start_django() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cbmir_site.settings")
    import django

    django.setup()


def real_features(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """FC1 of the training images and of the test images, their organs and modalities; kept in the folder."""
    file = folder / "features.npz"
    if not file.exists():
        from ml.checkpoint import load_checkpoint
        from ml.engines import engine_for
        from ml.inference import see
        from ml.labelled_folder import read_labelled_folder

        checkpoint = load_checkpoint(options.checkpoint)
        engine = engine_for(checkpoint.network, "auto")
        data = read_labelled_folder(options.data)
        found: dict[str, Any] = {
            "mean": checkpoint.projection.mean,
            "components": checkpoint.projection.components,
            "organs": np.array(data.organ_names),
            "modalities": np.array(data.modality_codes),
        }
        for split in ("train", "test"):
            chosen = data.split == split
            seen = see(engine, checkpoint.preprocessing, data.renditions[chosen])
            found |= {
                f"{split}_fc1": seen.fc1,
                f"{split}_organ": data.organ[chosen],
                f"{split}_modality": data.modality[chosen],
            }
            found[f"{split}_seen"] = seen.organ_logits.argmax(1)
        np.savez(file, **found)
    return dict(np.load(file))


class MadeCollection:
    """N embeddings with the neighbourhoods of real ones, made chunk by chunk, always the same."""

    def __init__(self, real: dict[str, Any], size: int) -> None:
        from ml.projection import Projection

        self.size = size
        self.real = real
        self.fc1: Vectors = real["train_fc1"]
        self.organ, self.modality = real["train_organ"], real["train_modality"]
        self.projection = Projection(real["mean"], real["components"])
        self.neighbours = self._neighbours_in_class()
        apart = np.linalg.norm(self.fc1 - self.fc1[self.neighbours[:, 0]], axis=1)
        self.noise = 0.3 * float(np.median(apart))  # length of the noise

    def _neighbours_in_class(self, number: int = 4) -> NDArray[np.intp]:
        """(N, number): rows of the nearest with the same organ and modality."""
        found = np.empty((len(self.fc1), number), np.intp)
        for label in set(zip(self.organ.tolist(), self.modality.tolist(), strict=True)):
            rows = np.flatnonzero((self.organ == label[0]) & (self.modality == label[1]))
            part = self.fc1[rows]
            squares = (part**2).sum(1)
            distances = squares[:, None] + squares - 2 * part @ part.T
            np.fill_diagonal(distances, np.inf)
            order = np.argsort(distances, axis=1)[:, :number] if len(rows) > 1 else np.zeros((1, 1), int)
            found[rows] = (
                rows[np.resize(order, (len(rows), number))] if order.shape[1] < number else rows[order]
            )
        return found

    def chunks(self) -> Iterator[tuple[int, Vectors, NDArray[np.intp], NDArray[np.intp]]]:
        """First row, FC1 (n, 4096) as halfvec keeps it, organ (n,), modality (n,)."""
        for start in range(0, self.size, CHUNK):
            yield start, *self.chunk(start)

    def chunk(self, start: int) -> tuple[Vectors, NDArray[np.intp], NDArray[np.intp]]:
        rng = np.random.default_rng(start)
        number = min(CHUNK, self.size - start)
        one = rng.integers(len(self.fc1), size=number)
        corners = np.concatenate([one[:, None], self.neighbours[one]], axis=1)
        shares = rng.dirichlet(np.ones(corners.shape[1]), number).astype(np.float32)
        made = np.zeros((number, self.fc1.shape[1]), np.float32)
        for corner, share in zip(corners.T, shares.T, strict=True):
            made += share[:, None] * self.fc1[corner]
        active = made > 0  # noise where one of the two sees something: FC1 keeps its sparsity
        noise = rng.standard_normal(made.shape, np.float32) * active
        noise *= self.noise / np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-6)
        made = np.maximum(made + noise, 0)
        lengths = np.linalg.norm(self.fc1, axis=1)
        if lengths.std() < 0.01 * lengths.mean():
            made *= lengths.mean() / np.linalg.norm(made, axis=1, keepdims=True)
        return made.astype(np.float16).astype(np.float32), self.organ[one], self.modality[one]


class Benchmark:
    def __init__(self, made: MadeCollection, options: argparse.Namespace) -> None:
        self.made, self.options = made, options
        rng = np.random.default_rng(1)
        chosen = rng.choice(len(made.real["test_fc1"]), options.queries, replace=False)
        self.queries: Vectors = made.real["test_fc1"][chosen]
        self.projected = made.projection(self.queries)
        self.seen = made.real["test_seen"][chosen]
        self.modality = made.real["test_modality"][chosen]
        self.table = Table(
            "", "recall@20", "median ms", "p95 ms", "queries/s", f"with {CLIENTS}", "build s", "bytes/image",
            title=f"{made.size:,} embeddings, {options.queries} queries",
        )  # fmt: skip

    def run(self) -> None:
        self.truth = self.exact_answers()
        version = self.load()
        self.measure_database(version)
        if self.made.size <= MOST_IN_MEMORY and self.wants("FAISS"):
            self.measure_faiss()
        Console(width=140).print(self.table)

    def wants(self, name: str) -> bool:
        return not self.options.only or any(part in name for part in self.options.only)

    def exact_answers(self) -> dict[str, list[list[int]]]:
        """By filter ("", "organ", "both"): rows of the nearest by an exact scan in float32, of each query."""
        file = (self.options.dir or Path(tempfile.gettempdir())) / f"truth-{self.made.size}.npz"
        kinds = ("", "organ", "both")
        if self.options.dir and file.exists():
            kept = np.load(file)
            return {kind: kept[f"rows_{kind}"].tolist() for kind in kinds}
        best = {kind: np.full((len(self.queries), 0), np.inf) for kind in kinds}
        rows = {kind: np.empty((len(self.queries), 0), np.int64) for kind in kinds}
        squares = (self.queries**2).sum(1)[:, None]
        chunks = track(self.made.chunks(), "exact answers", total=-(-self.made.size // CHUNK))
        for start, fc1, organ, modality in chunks:
            distances = squares + (fc1**2).sum(1) - 2 * self.queries @ fc1.T
            same_organ = self.seen[:, None] == organ
            keeps = {"": None, "organ": same_organ, "both": same_organ & (self.modality[:, None] == modality)}
            for kind, keep in keeps.items():
                found = distances if keep is None else np.where(keep, distances, np.inf)
                all_distances = np.hstack([best[kind], found])
                all_rows = np.hstack(
                    [rows[kind], np.broadcast_to(np.arange(start, start + len(fc1)), found.shape)]
                )
                nearest = np.argsort(all_distances, axis=1, kind="stable")[:, :NEAREST]
                best[kind] = np.take_along_axis(all_distances, nearest, 1)
                rows[kind] = np.take_along_axis(all_rows, nearest, 1)
        for kind in kinds:
            rows[kind][~np.isfinite(best[kind])] = -1
        if self.options.dir:
            answers: dict[str, Any] = {f"rows_{kind}": rows[kind] for kind in kinds}
            np.savez(file, **answers)
        return {kind: rows[kind].tolist() for kind in kinds}

    def load(self) -> Any:
        """The collection as the product stores it; with --dir only what is not there yet."""
        from django.core.management import call_command
        from django.db import connection

        from ingest.models import Dataset, Modality, OrganClass
        from ml.models import ModelVersion
        from search.models import Embedding

        call_command("migrate", verbosity=0)
        organs = [OrganClass.objects.get_or_create(name=str(name))[0] for name in self.made.real["organs"]]
        codes = [
            Modality.objects.get_or_create(code=str(code))[0].pk for code in self.made.real["modalities"]
        ]
        dataset, _ = Dataset.objects.get_or_create(name="made")
        version = ModelVersion.objects.filter(status="active").first() or ModelVersion.objects.create(
            recipe="default", checkpoint="none", status="active"
        )
        there = Embedding.objects.count()
        self.organ_ids, self.codes = [organ.pk for organ in organs], codes
        started = time.perf_counter()
        for start in track(range(0, self.made.size, CHUNK), "loading"):
            if min(start + CHUNK, self.made.size) <= there:
                continue
            fc1, organ, modality = self.made.chunk(start)
            projected = self.made.projection(fc1)
            with connection.cursor() as cursor:
                copy_rows(
                    cursor, start, fc1, projected, organ, modality, self.organ_ids, codes, dataset, version
                )
        if there < self.made.size:
            print(f"loaded in {time.perf_counter() - started:.0f} s")
            with connection.cursor() as cursor:
                cursor.execute("VACUUM ANALYZE search_embedding")
                cursor.execute("VACUUM ANALYZE ingest_image")
        return version

    def measure_database(self, version: Any) -> None:
        from search import indexing, ivfflat
        from search.models import Embedding, Query, VersionIndex

        size = self.made.size
        started = time.perf_counter()
        build = None
        if not ivfflat.is_built(version.pk):
            ivfflat.build(version, size)
            build = time.perf_counter() - started
            print(f"IVFFlat index of the projections built in {build:.0f} s")
        index = VersionIndex.objects.filter(model_version=version).first()
        if index is None:
            started = time.perf_counter()
            indexing.prepare(version)
            print(f"fitted in {time.perf_counter() - started:.0f} s")
        stored = size_of("search_embedding") / size
        inline = size_of(ivfflat.name_of(version.pk)) / size
        everything = Embedding.objects.for_version(version)

        def ours(kind: str, has_index: bool = True) -> Search:
            def search(number: int) -> list[int]:
                found, kept = everything, size
                if kind:
                    organ = int(self.seen[number])
                    found = found.filter(organ=self.organ_ids[organ])
                    kept = size // len(self.organ_ids)
                if kind == "both":
                    found = found.filter(modality=self.codes[int(self.modality[number])])
                ranking = found.nearest_to(self.point(number), NEAREST, kept=kept, indexed=size * has_index)
                return [pk - 1 for pk in ranking.ids]

            return search

        self.row("exact scan over halfvec(4096)", self.exact_halfvec(version), "", None, stored, few=True)
        self.row("ours: exact, by projection and FC1", ours("", has_index=False), "", None, stored)
        self.row("ours: unfiltered", ours(""), "", build, stored + inline)
        self.row("ours: within the predicted organ", ours("organ"), "organ", None, stored + inline)
        self.row("ours: organ and modality", ours("both"), "both", None, stored + inline)
        for scope in ("all", "predicted", "blended"):
            self.row(
                f"ours: a whole first page, {scope}", self.page(version, scope), "", None, None, unknown=True
            )
        Query.objects.all().delete()
        if self.wants("bits"):
            built = self.build_bits(version)
            size_bits = size_of("benchmark_bits") / size
            for candidates in BIT_CANDIDATES:
                name = f"pgvector HNSW on bits, {candidates} re-ranked"
                self.row(name, self.bits(version, candidates), "", built, stored + size_bits)

    def point(self, number: int) -> Any:
        from search.ranking import Point

        return Point(self.queries[number], self.projected[number])

    def page(self, version: Any, scope: str) -> Search:
        """As the page does it: counts, facets, ranking, series put together, 24 hits with their images."""
        from search.models import Query, QueryStatus
        from search.options import Scope, SearchOptions
        from search.retrieval import search

        probabilities = [[str(name), 0.01] for name in self.made.real["organs"]]

        def ask(number: int) -> list[int]:
            organ = int(self.seen[number])
            likeliest = [[probabilities[organ][0], 0.9], *probabilities[:organ], *probabilities[organ + 1 :]]
            query = Query(
                status=QueryStatus.ANSWERED,
                model_version=version,
                fc1=self.queries[number],
                projection=self.projected[number],
                organ_probabilities=likeliest,
                newest_embedding=self.made.size,
            )
            hits = search(query, SearchOptions(scope=Scope(scope))).hits
            return [hit.image_id - 1 for hit in hits]

        return ask

    def exact_halfvec(self, version: Any) -> Search:
        from django.db.models import FloatField, Value
        from pgvector.django import L2Distance

        from search.models import Embedding
        from search.ranking import as_text

        def search(number: int) -> list[int]:
            distance = L2Distance("fc1", Value(as_text(self.queries[number]))) + Value(0.0, FloatField())
            found = Embedding.objects.for_version(version).alias(distance=distance).order_by("distance")
            return [pk - 1 for pk in found.values_list("pk", flat=True)[:NEAREST]]

        return search

    def build_bits(self, version: Any) -> float:
        """HNSW on the signs of centred FC1: what pgvector's manual has for vectors too long for an index."""
        from django.db import connection

        from search.ranking import as_text

        self.centre = as_text(self.made.projection.mean)
        started = time.perf_counter()
        with connection.cursor() as cursor:
            cursor.execute("DROP INDEX IF EXISTS benchmark_bits")
            cursor.execute("SET maintenance_work_mem = '2GB'")
            cursor.execute(
                "CREATE INDEX benchmark_bits ON search_embedding USING hnsw"
                f" ((binary_quantize(fc1 - '{self.centre}'::halfvec)::bit(4096)) bit_hamming_ops)"
            )
            cursor.execute("RESET maintenance_work_mem")
        return time.perf_counter() - started

    def bits(self, version: Any, candidates: int) -> Search:
        from django.db import connection, transaction

        from search.ranking import as_text

        def search(number: int) -> list[int]:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL hnsw.ef_search = {candidates}")
                asked = (
                    f"binary_quantize('{as_text(self.queries[number])}'::halfvec - '{self.centre}'::halfvec)"
                )
                cursor.execute(
                    "SELECT id FROM (SELECT id, fc1 FROM search_embedding ORDER BY"
                    f" binary_quantize(fc1 - '{self.centre}'::halfvec)::bit(4096) <~> {asked}::bit(4096)"
                    f" LIMIT {candidates}) AS near"
                    f" ORDER BY fc1 <-> '{as_text(self.queries[number])}', id LIMIT {NEAREST}"
                )
                return [row[0] - 1 for row in cursor.fetchall()]

        return search

    def measure_faiss(self) -> None:
        import faiss

        faiss.omp_set_num_threads(1)  # of one query; the database, too, gives it one process
        vectors = np.concatenate([fc1 for _, fc1, *_ in self.made.chunks()])
        flat = faiss.IndexFlatL2(vectors.shape[1])
        flat.add(vectors)
        self.row("FAISS flat, in process", self.faiss(flat), "", None, 4.0 * vectors.shape[1], threads=True)
        graph = faiss.IndexHNSWFlat(vectors.shape[1], FAISS_LINKS)
        graph.hnsw.efConstruction = 64
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        started = time.perf_counter()
        graph.add(vectors)
        build = time.perf_counter() - started
        faiss.omp_set_num_threads(1)
        for ef in HNSW_EF:
            graph.hnsw.efSearch = ef
            name = f"FAISS HNSW, in process, efSearch {ef}"
            per_image = 4.0 * vectors.shape[1] + 8 * FAISS_LINKS + 8
            recall = self.row(name, self.faiss(graph), "", build, per_image, threads=True)
            if recall >= 0.995:
                break

    def faiss(self, index: Any) -> Search:
        return lambda number: index.search(self.queries[number : number + 1], NEAREST)[1][0].tolist()

    def row(
        self,
        name: str,
        search: Search,
        kind: str,
        build: float | None,
        bytes_per_image: float | None,
        *,
        few: bool = False,
        threads: bool = False,
        unknown: bool = False,
    ) -> float:
        """Measure a way and add its row; returns its recall."""
        if not self.wants(name):
            return 0.0
        numbers = range(min(20, len(self.queries)) if few else len(self.queries))
        for number in list(numbers)[:3] if few else numbers:  # from memory, as where people search all day
            search(number)
        seconds, recalls = [], []
        for number in numbers:
            started = time.perf_counter()
            rows = search(number)
            seconds.append(time.perf_counter() - started)
            wanted = {row for row in self.truth[kind][number] if row >= 0}
            recalls.append(len(wanted & set(rows)) / len(wanted) if wanted else 1.0)
        recall = float(np.mean(recalls))
        rates = [rate_with(search, clients, self.options, threads, len(numbers)) for clients in (1, CLIENTS)]
        cells = [
            name,
            "" if unknown else f"{recall:.4f}",
            f"{1000 * np.median(seconds):.1f}",
            f"{1000 * np.percentile(seconds, 95):.1f}",
            *[f"{rate:,.0f}" for rate in rates],
            "" if build is None else f"{build:,.0f}",
            "" if bytes_per_image is None else f"{bytes_per_image:,.0f}",
        ]
        print(" | ".join(cells), flush=True)
        self.table.add_row(*cells)
        return recall


def size_of(relation: str) -> int:
    """Bytes on disk; of a table with all that belongs to it but its indexes."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_table_size(%s)", [relation])
        return int(cursor.fetchone()[0])


def copy_rows(
    cursor: Any,
    start: int,
    fc1: Vectors,
    projected: Vectors,
    organ: NDArray[np.intp],
    modality: NDArray[np.intp],
    organ_ids: list[int],
    codes: list[str],
    dataset: Any,
    version: Any,
) -> None:
    """Images and embeddings by COPY; triggers fill the rest, as they do for the product."""
    images = io.StringIO()
    for number in range(len(fc1)):
        row = start + number
        images.write(
            f"{row + 1}\t{dataset.pk}\t{row:064x}\t1\t1\tmade\t\t\t\t{organ_ids[organ[number]]}\t"
            f"{codes[modality[number]]}\t\t\t\t\t\t\t{row:032x}\tPNG\t\t64\t64\t8\t{{}}\t[]\t2026-01-01\t\t\t\n"
        )
    columns = (
        "id, dataset_id, sha256, frame_number, number_of_frames, source_path, original, rendition, preview,"
        " organ_id, modality_id, incoming_organ, body_part_examined, split, patient_key, study_key,"
        " series_key, group_key, file_format, transfer_syntax_uid, rows, columns, bits_stored, tags,"
        " assumptions, created_at, deidentification, incoming_modality, pixel_hash"
    )
    with cursor.copy(f"COPY ingest_image ({columns}) FROM STDIN") as copy:
        copy.write(images.getvalue())
    halves, small = fc1.astype(">f2"), projected.astype(">f2")
    columns = (
        "id, image_id, model_version_id, fc1, projection, predicted_organ_id, organ_probability,"
        " predicted_modality_id, modality_probability, created_at"
    )
    with cursor.copy(f"COPY search_embedding ({columns}) FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for number in range(len(fc1)):
            row = start + number + 1
            copy.write(
                b"".join(
                    [
                        (10).to_bytes(2, "big"),
                        int8(row),
                        int8(row),
                        int8(version.pk),
                        halfvec(halves[number]),
                        halfvec(small[number]),
                        int8(organ_ids[organ[number]]),
                        float8(0.9),
                        text(codes[modality[number]]),
                        float8(0.9),
                        int8(0),
                    ]
                )
            )
        copy.write(b"\xff\xff")


def int8(value: int) -> bytes:
    return struct.pack(">iq", 8, value)


def float8(value: float) -> bytes:
    return struct.pack(">id", 8, value)


def text(value: str) -> bytes:
    return struct.pack(">i", len(value)) + value.encode()


def halfvec(values: NDArray[Any]) -> bytes:
    return struct.pack(">iHH", 4 + 2 * len(values), len(values), 0) + values.tobytes()


def rate_with(
    search: Search, clients: int, options: argparse.Namespace, threads: bool, queries: int
) -> float:
    """Queries per second of so many clients, each asking one after the other."""
    from django.db import connections

    connections.close_all()
    seconds = options.seconds
    if threads:
        counts = [0] * clients
        started = time.perf_counter()

        def ask(client: int) -> None:
            while time.perf_counter() - started < seconds:
                search((client * 37 + counts[client]) % queries)
                counts[client] += 1

        workers = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(counts) / (time.perf_counter() - started)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def ask_alone(client: int) -> None:
        search(0)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            search((client * 37 + count) % queries)
            count += 1
        answers.put(count / (time.perf_counter() - started))
        connections.close_all()
        os._exit(0)  # what runs at exit belongs to the parent

    processes = [context.Process(target=ask_alone, args=(client,)) for client in range(clients)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return float(sum(answers.get() for _ in processes))


if __name__ == "__main__":
    main()
