"""The Cancer Imaging Archive over its public interface (NBIA's REST interface): series, and their files.

Needs no account. A series comes as one zip with a list of its files' MD5 sums (getImageWithMD5Hash), which
is the only way to the sums; it is written on the fly and cannot be asked for from the middle. So a series is
either here, whole and verified, or it is not.
"""

import csv
import hashlib
import re
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeVar

import requests

CONNECT_SECONDS = 20
READ_SECONDS = 120  # without a byte; the archive thinks a while before it begins to send
ATTEMPTS = 5
PAUSE_SECONDS = 2.0  # before the second attempt, twice as long before each further one
CHUNK_BYTES = 2**18
UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1
SUMS = "md5hashes.csv"
PASSING = {408, 425, 429, 500, 502, 503, 504}  # worth another attempt

Result = TypeVar("Result")


class FetchError(Exception):
    """Something could not be had from the archive; its text is a sentence for the person."""


class PassingError(FetchError):
    """One that another attempt may mend."""


@dataclass(frozen=True)
class Series:
    """A series as getSeries lists it. `patient_id` is the archive's pseudonym; it is not kept."""

    uid: str
    patient_id: str
    modality: str
    body_part_examined: str
    description: str
    images: int
    size_bytes: int
    licence: str = ""
    source: str = ""  # address of the collection's description


class Archive:
    """The interface at an address such as https://.../nbia-api/services/v4."""

    def __init__(self, address: str, read_seconds: float = READ_SECONDS) -> None:
        self.address = address.rstrip("/")
        self.timeout = (CONNECT_SECONDS, read_seconds)
        self.session = requests.Session()

    def series_of(self, collection: str) -> list[Series]:
        """All public series of a collection; none where the archive does not know it. Raises FetchError."""
        rows = attempted(lambda: self._json("getSeries", Collection=collection, format="json"))
        try:
            return [series_of_row(row) for row in rows]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FetchError("The archive's list of series is not in the form that is known here.") from error

    def download(self, uid: str, target: Path, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        """Bring the zip of a series to `target`, which is only there when it is whole. Raises FetchError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        try:
            attempted(lambda: self._download(uid, partial, on_bytes))
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)

    def _json(self, endpoint: str, **parameters: str) -> list[dict[str, Any]]:
        with self._get(endpoint, parameters) as response:
            try:
                found = response.json() if response.content.strip() else []
            except requests.JSONDecodeError as error:
                raise PassingError("The archive's answer is no JSON.") from error
            except requests.RequestException as error:
                raise PassingError("The connection to the archive broke off.") from error
        if not isinstance(found, list):
            raise FetchError("The archive's list of series is not in the form that is known here.")
        return found

    def _download(self, uid: str, partial: Path, on_bytes: Callable[[int], None]) -> None:
        response = self._get("getImageWithMD5Hash", {"SeriesInstanceUID": uid})
        with response, partial.open("wb") as file:
            chunks = response.iter_content(CHUNK_BYTES)
            while chunk := next_chunk(chunks):
                file.write(chunk)
                on_bytes(len(chunk))
        verify(partial)

    def _get(self, endpoint: str, parameters: dict[str, str]) -> requests.Response:
        try:
            response = self.session.get(
                f"{self.address}/{endpoint}", params=parameters, timeout=self.timeout, stream=True
            )
        except requests.Timeout as error:
            raise PassingError("The archive did not answer in time.") from error
        except requests.ConnectionError as error:
            raise PassingError("The archive cannot be reached, or broke the connection off.") from error
        except requests.RequestException as error:
            raise FetchError("The archive's address cannot be asked.") from error
        if response.ok:
            return response
        response.close()
        kind = PassingError if response.status_code in PASSING else FetchError
        raise kind(f"The archive answered with an error (HTTP {response.status_code}).")


def attempted(call: Callable[[], Result]) -> Result:
    """What the call returns, at the latest of ATTEMPTS attempts. Raises FetchError."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except PassingError:
            time.sleep(PAUSE_SECONDS * 2**attempt)
    return call()


def next_chunk(chunks: Any) -> bytes:
    """The next bytes of a body; empty at its end."""
    try:
        return bytes(next(chunks, b""))
    except requests.ConnectionError as error:  # urllib3's read timeout comes as one
        raise PassingError("The archive stopped sending in the middle.") from error
    except requests.RequestException as error:
        raise PassingError("The connection to the archive broke off in the middle.") from error


def series_of_row(row: dict[str, Any]) -> Series:
    def text(name: str) -> str:
        return str(row.get(name) or "").strip()

    if not UID.fullmatch(uid := str(row["SeriesInstanceUID"])):  # it becomes a file's name
        raise ValueError("no UID")
    return Series(
        uid=uid,
        patient_id=text("PatientID"),
        modality=text("Modality"),
        body_part_examined=text("BodyPartExamined"),
        description=text("SeriesDescription"),
        images=int(row.get("ImageCount") or 0),
        size_bytes=int(row.get("FileSize") or 0),
        licence=text("LicenseName"),
        source=text("DataDescriptionURI"),
    )


def verify(path: Path) -> None:
    """Every file that the zip's list names is in it, with the MD5 sum that the list gives.

    The archive writes the list last: a zip that was cut off has none. Raises PassingError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name, expected in sums_in(archive).items():
                digest = hashlib.md5(usedforsecurity=False)
                with archive.open(name) as member:
                    while chunk := member.read(CHUNK_BYTES):
                        digest.update(chunk)
                if digest.hexdigest() != expected:
                    raise PassingError("A file came with other bytes than the archive's checksum says.")
    except KeyError as error:
        raise PassingError("The zip lacks files, or the list of their checksums.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise PassingError("What came is no zip file, or a damaged one.") from error


def sums_in(archive: zipfile.ZipFile) -> dict[str, str]:
    """MD5 sum by file name, as the zip's list says. Raises KeyError where there is none."""
    with archive.open(SUMS) as stream:
        rows = list(csv.DictReader(TextIOWrapper(stream, "utf-8-sig", "replace")))
    if not rows:
        raise KeyError(SUMS)
    return {row["Filename"]: row["MD5Hash"].strip().lower() for row in rows}
