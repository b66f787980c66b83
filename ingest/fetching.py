"""Which public images stand for which class, how many are taken of which series, and bringing them in.

What has been taken is asked of the ledger, so a fetch that was stopped goes on where it was. The files of a
series are received in one transaction: it is in the ledger as a whole, or not at all.
"""

import re
import tomllib
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, TypeVar

import pydicom
from django.db import transaction
from django.db.models import Count
from pydicom.errors import InvalidDicomError

from ingest.dicom_parsing import looks_like_dicom
from ingest.folders import CHUNK_FILES, files_under, import_rest
from ingest.image_file import RejectedFile
from ingest.labels import Claims, ManifestError, clean_path
from ingest.models import (
    Dataset,
    FileState,
    LabelSource,
    SliceChoice,
    UploadBatch,
    UploadedFile,
    UploadedFileQuerySet,
)
from ingest.pictures import format_of
from ingest.receiving import IncomingFile, open_batch, receive_all
from ingest.tcia import Archive, FetchError, Series, sums_in, verify

MANIFEST = Path(__file__).with_name("paper_collection.toml")
LIMIT = 300  # of each class, as in the paper
LEAST_SHARE = 10  # slices of a series where there are series enough: 30 series for 300 slices
HEADER_TAGS = ["SOPInstanceUID", "InstanceNumber", "ImageType", "Rows"]
UNREADABLE = (InvalidDicomError, ValueError, TypeError, AttributeError, EOFError)  # of pydicom, for a header
ARCHIVE_CITATION = (
    "Clark K, et al. The Cancer Imaging Archive (TCIA): Maintaining and Operating a Public Information "
    "Repository. Journal of Digital Imaging 26(6), 2013, 1045-1057. https://doi.org/10.1007/s10278-013-9622-7"
)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Source:
    """Where images of a class come from: a collection of the archive, or a folder that a person fills."""

    organ: str
    name: str  # of the collection and of the data set
    folder: str = ""
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    description: str = ""  # a regular expression that SeriesDescription has to match
    title: str = ""
    licence: str = ""
    source: str = ""

    @property
    def citation(self) -> str:
        parts = [self.title or self.name, self.source]
        return ". ".join(filter(None, parts)) + ("" if self.folder else f"; {ARCHIVE_CITATION}")

    def takes(self, series: Series) -> bool:
        return (
            (not self.modalities or series.modality in self.modalities)
            and (not self.body_parts or letters(series.body_part_examined) in map(letters, self.body_parts))
            and bool(re.search(self.description, series.description, re.IGNORECASE))
        )


@dataclass(frozen=True)
class Collection:
    """A manifest: the archive's address, and the sources in the order in which they are asked."""

    address: str
    sources: tuple[Source, ...]

    @property
    def organs(self) -> list[str]:
        return list(dict.fromkeys(source.organ for source in self.sources))


@dataclass
class Plan:
    """What there is to take of a source, in order; what lies behind the limit stands in for failures."""

    source: Source
    series: list[Series] = field(default_factory=list)
    share: int = 0  # most slices of one series
    files: list[IncomingFile] = field(default_factory=list)

    def taken(self, limit: int) -> list[tuple[Series, int]]:
        """The series of which a limit takes slices if nothing fails, and how many of each."""
        taken, left = [], limit
        for series in self.series:
            if left > 0:
                taken.append((series, min(self.share, series.images, left)))
                left -= taken[-1][1]
        return taken

    def expected(self, limit: int) -> int:
        """How many images a limit takes if nothing fails."""
        return min(limit, len(self.files)) + sum(slices for _, slices in self.taken(limit))


def read_collection(path: Path = MANIFEST) -> Collection:
    """Raises ManifestError."""
    try:
        content = tomllib.loads(path.read_text())
        sources = []
        for row in content["sources"]:
            lists = {name: tuple(row.get(name, ())) for name in ("modalities", "body_parts")}
            sources.append(Source(**{**row, **lists}))
            re.compile(sources[-1].description)
        return Collection(content["address"], tuple(sources))
    except OSError as error:
        raise ManifestError("The manifest cannot be read.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError("The manifest is not in the form TOML.") from error
    except (KeyError, TypeError, re.error) as error:
        raise ManifestError(f"The manifest lacks something, or has a wrong entry: {error}.") from error


def rows_of(source: Source) -> UploadedFileQuerySet:
    """What the ledger has of a source; rejected files count for nothing but are not fetched again."""
    return UploadedFile.objects.filter(
        batch__dataset__name=source.name, batch__label_source=LabelSource.MANIFEST, organ_name=source.organ
    )


def number_of(sources: Sequence[Source]) -> int:
    """Different files of these sources that are in the collection or on their way into it."""
    rows = [rows_of(source).exclude(state__in=[FileState.REJECTED, FileState.LEFT_OUT]) for source in sources]
    return sum(each.aggregate(number=Count("sha256", distinct=True))["number"] for each in rows)


def plan_of(source: Source, archive: Archive, folder: Path, wanted: int) -> Plan:
    """What there is of a source that was not taken yet. Raises FetchError where there is nothing at all."""
    taken = set(rows_of(source).values_list("path", flat=True))
    if source.folder:
        files = pictures_under(folder / source.folder, source)
        return Plan(source, files=[file for file in files if clean_path(file.path) not in taken])
    offered = archive.series_of(source.name)
    matching = [series for series in offered if source.takes(series)]
    if not matching:
        raise FetchError(none_matches(source, offered))
    series_taken = {path.split("/")[1] for path in taken if path.count("/") > 1}
    series = by_turns([series for series in matching if series.uid not in series_taken])
    return Plan(source, series, share_of(series, wanted))


def letters(term: str) -> str:
    return re.sub(r"[^A-Z]", "", term.upper())


def none_matches(source: Source, offered: Sequence[Series]) -> str:
    if not offered:
        return f"The archive has no public series of {source.name}."
    kinds = Counter(f"{each.modality} {each.body_part_examined}".strip() for each in offered).most_common(6)
    found = ", ".join(f"{kind} ({number})" for kind, number in kinds)
    kind = f"None of the {len(offered)} series of {source.name} is of the kind that the manifest asks for"
    return f"{kind}; there are {found}."


def by_turns(series: Sequence[Series]) -> list[Series]:
    """One series of each patient, then a second of each, and so on; always in the same order."""
    of_patient = defaultdict(list)
    for each in sorted(series, key=lambda each: each.uid):
        of_patient[each.patient_id].append(each)
    rounds = zip_longest(*of_patient.values())
    return [each for each in chain.from_iterable(rounds) if each is not None]


def share_of(series: Sequence[Series], wanted: int) -> int:
    """The fewest slices of each series, but at least LEAST_SHARE, that together are as many as wanted."""
    largest = max((each.images for each in series), default=0)
    for share in range(LEAST_SHARE, largest):
        if sum(min(share, each.images) for each in series) >= wanted:
            return share
    return max(largest, LEAST_SHARE)


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """`number` of the items, each from the middle of its stretch of them; all where there are fewer."""
    if len(items) <= number:
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * number)] for i in range(number)]


def pictures_under(folder: Path, source: Source) -> list[IncomingFile]:
    """The images of a folder that a person filled. Raises FetchError where there are none."""
    found = []
    for file in files_under(folder) if folder.is_dir() else ():
        with suppress(RejectedFile), file.open() as stream:
            start = stream.read(512)
            if looks_like_dicom(start) or format_of(start):
                found.append(IncomingFile(f"{source.name}/{file.path}", file.open, Claims(source.organ)))
    if not found:
        address = f" They are had from {source.source}." if source.source else ""
        raise FetchError(f"There are no images of {source.name} in the folder {folder}.{address}")
    return found


def slices_of(path: Path, source: Source, series: Series, number: int) -> list[IncomingFile]:
    """`number` slices of a series' zip, evenly spaced in the order of InstanceNumber, without localizers.

    Raises FetchError where there are none.
    """
    found = []
    with zipfile.ZipFile(path) as archive:
        for name in sums_in(archive):
            with suppress(*UNREADABLE), archive.open(name) as member:
                ds = pydicom.dcmread(member, stop_before_pixels=True, specific_tags=HEADER_TAGS)
                if "Rows" in ds and "LOCALIZER" not in ds.get("ImageType", ()):
                    found.append((ds.get("InstanceNumber") or 0, str(ds.SOPInstanceUID), name))
    if not found:
        raise FetchError("There is no image in it.")
    folder, claims = f"{source.name}/{series.uid}", Claims(source.organ)
    return [
        IncomingFile(f"{folder}/{sop_instance_uid}.dcm", partial(opened_member, path, name), claims)
        for _, sop_instance_uid, name in spread(sorted(found), number)
    ]


@contextmanager
def opened_member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        yield BytesIO(archive.read(name))


class Fetch:
    """Brings one source in, into a batch that is opened when its first files are there."""

    def __init__(self, plan: Plan, archive: Archive, folder: Path, keep: bool = False) -> None:
        self.plan, self.archive, self.folder, self.keep = plan, archive, folder, keep
        self.failures: list[str] = []
        self.batch: UploadBatch | None = None

    def run(
        self, wanted: int, on_progress: Callable[[int, int], None] = lambda files, size_bytes: None
    ) -> None:
        """Take up to `wanted` files; a series that cannot be had costs only itself, and another stands in.

        `on_progress` is told how many files are in, and how many bytes came since it was told before.
        Raises OSError where the disk fails.
        """
        source, before = self.plan.source, number_of([self.plan.source])
        files = spread(self.plan.files, wanted)
        for start in range(0, len(files), CHUNK_FILES):
            self.receive(files[start : start + CHUNK_FILES])
            on_progress(number_of([source]) - before, 0)
        for series in self.plan.series:
            done = number_of([source]) - before
            if done >= wanted:
                break
            path = self.folder / source.name / f"{series.uid}.zip"
            try:
                if not is_whole(path):
                    self.archive.download(series.uid, path, partial(on_progress, done))
                self.receive(slices_of(path, source, series, min(self.plan.share, wanted - done)), series)
            except FetchError as error:
                self.failures.append(f"Series {series.uid}: {error}")
            if not self.keep:
                path.unlink(missing_ok=True)
            on_progress(number_of([source]) - before, 0)

    def receive(self, files: list[IncomingFile], series: Series | None = None) -> None:
        """All of them or, where the process or the database dies, none; then import them."""
        source = self.plan.source
        if self.batch is None:
            self.batch = open_batch(
                source.name,
                LabelSource.MANIFEST,
                None,
                makes_organs=True,
                is_trusted=True,  # the archive looks through the pictures before it publishes them
                slice_choice=SliceChoice.ALL,  # which slices come is chosen here
            )
        describe(self.batch.dataset, source, series)
        with transaction.atomic():
            for _ in receive_all(self.batch, files, None):
                pass
        import_rest(self.batch)


def is_whole(path: Path) -> bool:
    """Whether the zip of a series lies there from an earlier fetch."""
    with suppress(FetchError, FileNotFoundError):
        verify(path)
        return True
    return False


def describe(dataset: Dataset, source: Source, series: Series | None) -> None:
    """Fill in what the data set does not say yet; the archive's own word goes before the manifest's."""
    dataset.licence = dataset.licence or (series.licence if series else "")[:120] or source.licence
    dataset.source = dataset.source or (series.source if series else "")[:200] or source.source
    dataset.citation = dataset.citation or source.citation
    dataset.save(update_fields=["licence", "source", "citation"])
