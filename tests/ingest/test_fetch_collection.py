"""Fetching the paper's collection, from a server that speaks the archive's interface and misbehaves."""

import errno
import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO

import pytest
from django.core.management import CommandError, call_command

from ingest import fetching, tcia
from ingest.fetching import Fetch, Plan, Source, by_turns, read_collection, share_of, spread
from ingest.models import Dataset, FileState, Image, UploadBatch, UploadedFile
from ingest.receiving import IncomingFile
from ingest.tcia import Archive, FetchError, Series
from tests import nbia_server
from tests.factories import dicom_bytes, png_bytes, zip_bytes
from tests.nbia_server import Nbia
from tests.processes import ROOT, environment, wait_until

MANIFEST = """
address = "{address}"

[[sources]]
organ = "brain"
name = "BRAINS"
modalities = ["MR"]
title = "Of brains"
licence = "CC BY 4.0"

[[sources]]
organ = "liver"
name = "LIVERS"
body_parts = ["Liver"]
description = "venous|arterial"

[[sources]]
organ = "eye"
name = "Eyes"
folder = "eye"
source = "https://eyes.example/"
licence = "for research"
"""


@pytest.fixture
def nbia(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nbia]:
    monkeypatch.setattr(tcia, "PAUSE_SECONDS", 0.001)
    with nbia_server.running() as server:
        yield server


@pytest.fixture
def fetch(nbia: Nbia, tmp_path: Path, db: None) -> Callable[..., str]:
    """Calls the command; what it printed."""
    (tmp_path / "manifest.toml").write_text(MANIFEST.format(address=nbia.address))

    defaults = {"manifest": tmp_path / "manifest.toml", "dir": tmp_path / "fetched", "classes": "brain"}

    def call(**options: object) -> str:
        output = StringIO()
        try:
            call_command(
                "fetch_collection",
                stdout=output,
                **{**defaults, **options},
            )
        except CommandError as error:
            raise CommandError(f"{output.getvalue()}\n{error}", returncode=error.returncode) from error
        return output.getvalue()

    return call


def failing(call: Callable[[], object]) -> str:
    with pytest.raises(CommandError) as failure:
        call()
    assert failure.value.returncode == 1
    return str(failure.value)


def taken_of(uid: str) -> list[UploadedFile]:
    return list(UploadedFile.objects.filter(path__contains=f"/{uid}/").order_by("path"))


def test_images_come_with_labels_licence_and_batch(fetch: Callable[..., str], nbia: Nbia) -> None:
    for patient in ("p1", "p2"):
        nbia.add_series("BRAINS", patient, images=3)
    nbia.add_series("BRAINS", "p3", Modality="SEG")
    assert "BRAINS" in fetch()
    dataset = Dataset.objects.get()
    assert (dataset.name, dataset.licence) == (
        "BRAINS",
        "CC BY 3.0",
    )  # the archive's word
    assert dataset.source == "https://doi.org/10.1/BRAINS"
    assert dataset.citation.startswith("Of brains; Clark K, et al.")
    batch = UploadBatch.objects.get()
    assert batch.is_finished
    assert Counter(batch.files.values_list("state", "organ_name")) == {("imported", "brain"): 6}
    images = Image.objects.filter(organ__name="brain", modality="MR")
    assert images.count() == 6
    assert images.values("patient_key").distinct().count() == 2
    assert not UploadedFile.objects.filter(path__contains="p1").exists()


def test_slices_are_spread_over_patients_series_and_depth(
    fetch: Callable[..., str], nbia: Nbia, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LEAST_SHARE", 2)
    series = [nbia.add_series("BRAINS", patient, images=8) for patient in ("p1", "p1", "p1", "p2", "p3")]
    fetch(limit=6)
    numbers = [len(taken_of(uid)) for uid in series]
    assert sum(numbers) == 6
    assert sorted(numbers[:3]) == [0, 0, 2]
    assert numbers[3:] == [2, 2]
    # The third and the seventh of eight by InstanceNumber, whatever their names in the zip.
    contents = [nbia.files[series[3]][f"{8 - index:08d}.dcm"] for index in (2, 6)]
    assert {row.size_bytes for row in taken_of(series[3])} == {len(content) for content in contents}
    assert {row.sha256 for row in taken_of(series[3])} == {hashlib.sha256(c).hexdigest() for c in contents}


def test_called_again_it_fetches_nothing_and_with_a_higher_limit_the_rest(
    fetch: Callable[..., str], nbia: Nbia, tmp_path: Path
) -> None:
    series = [nbia.add_series("BRAINS", f"p{number}", images=12) for number in range(3)]
    fetch(limit=10)
    assert len(nbia.asked) == 1
    fetch(limit=10)
    assert len(nbia.asked) == 1
    fetch(limit=30)
    assert sorted(nbia.asked) == sorted(series)
    assert [len(taken_of(uid)) for uid in series] == [10, 10, 10]
    assert UploadedFile.objects.filter(state=FileState.IMPORTED).count() == 30
    assert UploadBatch.objects.count() == 2
    assert list((tmp_path / "fetched").rglob("*.*")) == []  # nothing is left lying about


@pytest.mark.parametrize("fault", ["500", "503", "429", "cut", "broken", "html", "changed"])
def test_passing_trouble_is_tried_again(fetch: Callable[..., str], nbia: Nbia, fault: str) -> None:
    uid = nbia.add_series("BRAINS", "p1")
    nbia.faults[uid] = [fault, fault]
    nbia.faults["getSeries"] = ["500", "html"]
    fetch()
    assert nbia.asked == [uid] * 3
    assert UploadedFile.objects.filter(state=FileState.IMPORTED).count() == 3


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("404", "The archive answered with an error (HTTP 404)."),
        ("500", "The archive answered with an error (HTTP 500)."),
        ("cut", "What came is no zip file, or a damaged one."),
        ("html", "What came is no zip file, or a damaged one."),
        ("broken", "The connection to the archive broke off in the middle."),
        ("changed", "A file came with other bytes than the archive's checksum says."),
    ],
)
def test_a_series_that_cannot_be_had_costs_only_itself(
    fetch: Callable[..., str], nbia: Nbia, tmp_path: Path, fault: str, sentence: str
) -> None:
    bad, good = (nbia.add_series("BRAINS", patient) for patient in ("p1", "p2"))
    nbia.faults[bad] = [fault] * tcia.ATTEMPTS
    printed = failing(fetch)
    assert f"Series {bad}: {sentence}" in " ".join(printed.split())
    assert "Not complete: brain. What came in stays" in printed
    assert nbia.asked.count(bad) == (1 if fault == "404" else tcia.ATTEMPTS)
    assert (len(taken_of(bad)), len(taken_of(good))) == (0, 3)
    assert list((tmp_path / "fetched").rglob("*.*")) == []

    nbia.faults.clear()  # it is well again
    fetch()
    assert len(taken_of(bad)) == 3
    assert nbia.asked.count(good) == 1


def test_another_series_stands_in_for_one_that_fails(fetch: Callable[..., str], nbia: Nbia) -> None:
    for number in range(3):
        nbia.add_series("BRAINS", f"p{number}", images=10)
    first = min(nbia.files)
    nbia.faults[first] = ["404"]
    printed = fetch(limit=20)  # complete, so no error
    assert f"brain: Series {first}: The archive answered with an error (HTTP 404)." in printed
    assert UploadedFile.objects.filter(state=FileState.IMPORTED).count() == 20


def test_a_server_that_stops_sending_is_given_up(nbia: Nbia, tmp_path: Path) -> None:
    uid = nbia.add_series("BRAINS", "p1")
    nbia.faults[uid] = ["slow"] * tcia.ATTEMPTS
    with pytest.raises(FetchError, match="The archive stopped sending in the middle"):
        Archive(nbia.address, read_seconds=0.05).download(uid, tmp_path / "series.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_series_without_its_checksums_is_not_whole(nbia: Nbia, tmp_path: Path) -> None:
    uid = nbia.add_series("BRAINS", "p1")
    nbia.zip_of = lambda uid, changed: _zip_without_sums(nbia, uid)  # type: ignore[method-assign,misc]
    with pytest.raises(FetchError, match="lacks files, or the list of their checksums"):
        Archive(nbia.address).download(uid, tmp_path / "series.zip")


def _zip_without_sums(nbia: Nbia, uid: str) -> bytes:
    return zip_bytes(nbia.files[uid])


def test_no_archive_at_all(fetch: Callable[..., str], tmp_path: Path) -> None:
    manifest = tmp_path / "nowhere.toml"
    manifest.write_text(MANIFEST.format(address="http://127.0.0.1:9/"))
    printed = failing(lambda: fetch(manifest=manifest))
    assert "brain: The archive cannot be reached, or broke the connection off." in printed


@pytest.mark.parametrize("uid", ["../../etc/cron", "", "1/2"])
def test_a_list_in_an_unknown_form_is_refused(fetch: Callable[..., str], nbia: Nbia, uid: str) -> None:
    nbia.add_series("BRAINS", "p1")
    nbia.rows[0]["SeriesInstanceUID"] = uid
    assert "list of series is not in the form that is known here" in " ".join(failing(fetch).split())


def test_what_does_not_match_is_told_with_what_there_is(fetch: Callable[..., str], nbia: Nbia) -> None:
    nbia.add_series("LIVERS", "p1", BodyPartExamined="ABDOMEN", SeriesDescription="venous", Modality="CT")
    nbia.add_series("LIVERS", "p2", BodyPartExamined="LIVER", SeriesDescription="scout", Modality="CT")
    printed = " ".join(failing(lambda: fetch(classes="brain, liver")).split())
    assert "brain: The archive has no public series of BRAINS." in printed
    assert "None of the 2 series of LIVERS is of the kind that the manifest asks for" in printed
    assert "there are CT ABDOMEN (1), CT LIVER (1)." in printed
    assert "Not complete: brain, liver." in printed
    nbia.add_series(
        "LIVERS", "p3", BodyPartExamined="LIVER", SeriesDescription="Portal VENOUS", Modality="CT"
    )
    fetch(classes="liver")
    assert Image.objects.filter(organ__name="liver").count() == 3


def test_localizers_are_left_out(fetch: Callable[..., str], nbia: Nbia) -> None:
    nbia.add_series("BRAINS", "p1", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert "There is no image in it." in failing(fetch)
    assert not UploadedFile.objects.exists()


def test_a_folder_stands_for_a_collection(fetch: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "fetched" / "eye"
    printed = " ".join(failing(lambda: fetch(classes="eye")).split())
    assert "There are no images of Eyes in the folder" in printed
    assert "They are had from https://eyes.example/." in printed
    for number in range(7):
        (folder / f"base{number % 2}").mkdir(parents=True, exist_ok=True)
        (folder / f"base{number % 2}" / f"{number}.png").write_bytes(png_bytes(seed=number))
    (folder / "grades.xls").write_bytes(b"no image")
    fetch(classes="eye", limit=4)
    assert Counter(UploadedFile.objects.values_list("organ_name", "state")) == {("eye", "imported"): 4}
    fetch(classes="eye", limit=300)
    assert Image.objects.filter(organ__name="eye").count() == 7
    assert Dataset.objects.get().licence == "for research"


def test_what_is_there_twice_counts_once(fetch: Callable[..., str], nbia: Nbia) -> None:
    first = nbia.add_series("BRAINS", "p1", images=10)
    again = nbia.add_series("BRAINS", "p2", images=10)
    nbia.files[again] = nbia.files[first]
    nbia.add_series("BRAINS", "p3", images=10)
    fetch(limit=20)
    assert Image.objects.count() == 20


def test_a_dry_run_takes_nothing(fetch: Callable[..., str], nbia: Nbia) -> None:
    for patient in ("p1", "p1", "p2"):
        nbia.add_series("BRAINS", patient, images=12)
    printed = fetch(dry_run=True, limit=15)
    row = next(line for line in printed.splitlines() if "BRAINS" in line)
    assert [cell.strip() for cell in row.split("│")[3:7]] == ["0", "15", "2", "2"]
    assert nbia.asked == []
    assert not UploadBatch.objects.exists()


def test_what_cannot_be_asked_for(fetch: Callable[..., str], tmp_path: Path) -> None:
    assert "The manifest has no class spleen. It has brain, liver, eye." in failing(
        lambda: fetch(classes="spleen")
    )
    assert "The limit is at least 1." in failing(lambda: fetch(limit=0))
    assert "The manifest cannot be read." in failing(lambda: fetch(manifest=tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("sources = [")
    assert "not in the form TOML" in failing(lambda: fetch(manifest=tmp_path / "bad.toml"))
    (tmp_path / "bad.toml").write_text('address = ""\n[[sources]]\norgan = "brain"\n')
    assert "lacks something" in failing(lambda: fetch(manifest=tmp_path / "bad.toml"))


def test_a_killed_fetch_goes_on_where_it_was(nbia: Nbia, tmp_path: Path, transactional_db: None) -> None:
    series = [nbia.add_series("BRAINS", f"p{number}", images=10) for number in range(3)]
    last = sorted(series)[-1]
    nbia.faults[last] = ["slow"]
    folder, manifest = tmp_path / "fetched", tmp_path / "manifest.toml"
    manifest.write_text(MANIFEST.format(address=nbia.address))
    options = ["--classes", "brain", "--manifest", str(manifest), "--dir", str(folder)]
    command = [sys.executable, "manage.py", "fetch_collection", *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: last in nbia.asked and list(folder.rglob("*.partial")), "the last series")
    finally:
        os.kill(process.pid, 9)
        process.wait()
    assert UploadedFile.objects.filter(state=FileState.IMPORTED).count() == 20

    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Counter(nbia.asked) == {**dict.fromkeys(series, 1), last: 2}
    assert Counter(UploadedFile.objects.values_list("state", flat=True)) == {"imported": 30}
    assert list(folder.rglob("*.*")) == []


def test_a_series_comes_in_whole_or_not_at_all(db: None, tmp_path: Path) -> None:
    @contextmanager
    def failing_disk() -> Iterator[IO[bytes]]:
        raise OSError(errno.EIO, "Input/output error")
        yield

    good = IncomingFile("BRAINS/1.2/1.dcm", lambda: nullcontext(BytesIO(dicom_bytes(seed=1))))
    bad = IncomingFile("BRAINS/1.2/2.dcm", failing_disk)
    fetch = Fetch(Plan(Source("brain", "BRAINS")), Archive("http://127.0.0.1:9"), tmp_path)
    with pytest.raises(OSError, match="Input/output"):
        fetch.receive([good, bad])
    assert not UploadedFile.objects.exists()
    fetch.receive([good])
    assert UploadedFile.objects.get().state == FileState.IMPORTED


def test_the_papers_manifest_has_24_classes_with_sources() -> None:
    collection = read_collection()
    assert len(collection.organs) == 24
    assert {"eye", "knee", "chest", "kidney", "stomach", "liver", "uterus"} <= set(collection.organs)
    assert {source.organ for source in collection.sources if source.folder} == {"eye", "knee", "head-neck"}
    for source in collection.sources:
        assert source.folder or (source.licence and source.source.startswith("https://doi.org/10.7937/"))
        assert len(source.licence) <= 120
        assert source.name in (ROOT / "docs" / "method.md").read_text()


def make_series(uid: str, patient: str, images: int) -> Series:
    return Series(uid, patient, "CT", "", "", images, 0)


def test_patients_come_by_turns() -> None:
    series = [make_series(uid, patient, 9) for uid, patient in ["1a", "2a", "3b", "4c", "5c"]]
    assert [each.uid for each in by_turns(series)] == ["1", "3", "4", "2", "5"]


@pytest.mark.parametrize(
    ("images", "wanted", "share"),
    [([100] * 40, 300, 10), ([100] * 5, 300, 60), ([20, 500], 300, 280), ([4], 9, 10)],
)
def test_share_of_a_series(images: list[int], wanted: int, share: int) -> None:
    assert share_of([make_series(str(i), "p", number) for i, number in enumerate(images)], wanted) == share


def test_spread() -> None:
    assert spread(range(10), 1) == [5]
    assert spread(range(10), 2) == [2, 7]
    assert spread(range(3), 5) == [0, 1, 2]
