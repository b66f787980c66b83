"""What a file's surroundings say of it: its folder, a manifest, its DICOM tags."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO

from django.utils.text import slugify

from ingest.models import LabelSource, Split

MANIFEST_NAME = "manifest.csv"
MANIFEST_NEEDS = ("path", "organ")  # the others are optional
# Our columns, and what others call them: in small letters and digits, the likeliest first.
MANIFEST_COLUMNS = {
    "path": (
        "path",
        "file",
        "filename",
        "filepath",
        "image",
        "imagepath",
        "imagefile",
        "imagename",
        "imageid",
    ),
    "organ": ("organ", "label", "class", "organname", "bodypart", "bodypartexamined", "anatomy", "category"),
    "modality": ("modality",),
    "group_id": ("groupid", "group", "patient", "patientid", "subject", "subjectid", "case", "caseid"),
    "split": ("split", "subset", "partition", "set"),
}
MANIFEST_BYTES = 64 * 2**20
PATH_LENGTH = 1024
ARCHIVE_NAMES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz")
NOISE = {"__macosx", "thumbs.db", "desktop.ini"}  # what operating systems leave behind

# BodyPartExamined (PS3.16 annex L) where our label is another word.
ORGAN_OF_BODY_PART = {
    "HEAD": "brain",
    "SKULL": "brain",
    "LUNG": "lungs",
    "THORAX": "chest",
    "CSPINE": "spine",
    "TSPINE": "spine",
    "LSPINE": "spine",
    "LSSPINE": "spine",
    "SSPINE": "spine",
    "CTSPINE": "spine",
    "TLSPINE": "spine",
    "HEADNECK": "head-neck",
    "CARDIAC": "heart",
    "KIDNEYS": "kidney",
    "MAMMA": "breast",
    "SINUS": "sinuses",
    "PARANASALSINUS": "sinuses",
    "JAW": "teeth",
    "TOOTH": "teeth",
    "RETINA": "eye",
    "FUNDUS": "eye",
    "CERVIX": "cervix",
}


class ManifestError(Exception):
    """A manifest that cannot be used; its text is a sentence for the person."""


@dataclass(frozen=True)
class Claims:
    """Labels that come with a file. `group` is raw: only its keyed hash is ever stored."""

    organ_name: str = ""
    modality_code: str = ""
    group: str = ""
    split: str = ""


NO_CLAIMS = Claims()


@dataclass(frozen=True)
class Manifest:
    """The claims of a manifest.csv by the files' paths, as they are in the upload."""

    path: str
    claims: dict[str, Claims]
    unused: list[str] = field(default_factory=list)  # columns that say nothing to us


def clean_path(path: str) -> str:
    """A relative path without "..", drive letters and control characters; the end of one that is too long."""
    path = path.encode("utf-8", "replace").decode().replace("\\", "/")
    path = re.sub(r"^[A-Za-z]:", "", re.sub(r"[\x00-\x1f\x7f]", "", path))
    parts = [part.strip() for part in path.split("/")]
    return "/".join(part for part in parts if part not in ("", ".", ".."))[-PATH_LENGTH:] or "unnamed"


def is_noise(path: str) -> bool:
    """Hidden files and the operating system's own, which are no part of what a person brings in."""
    return any(part.startswith(".") or part.lower() in NOISE for part in path.split("/"))


def has_archive_name(path: str) -> bool:
    return path.lower().endswith(ARCHIVE_NAMES)


def folder_of(path: str) -> str:
    """The folder that holds the file, "" where there is none. An archive holds files, but is no folder."""
    return next((part for part in path.split("/")[-2::-1] if not has_archive_name(part)), "")


def organ_slug(name: str) -> str:
    return slugify(name)[:64]


def modality_code(code: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", code.upper())[:16]


def split_name(name: str) -> str:
    name = name.strip().lower()
    return name if name in Split.values else ""


def organ_of_body_part(body_part_examined: str) -> str:
    """Our label for a BodyPartExamined; the term itself, as a slug, where it needs no translation."""
    term = re.sub(r"[^A-Z]", "", body_part_examined.upper())
    return ORGAN_OF_BODY_PART.get(term) or organ_slug(body_part_examined)


def claims_for(path: str, label_source: str, manifest: Manifest | None, claims: Claims = NO_CLAIMS) -> Claims:
    """The labels of the file at `path`: what was said of it expressly, else the manifest, else its folder."""
    if manifest:
        found = manifest.claims.get(path, NO_CLAIMS)
    elif label_source == LabelSource.FOLDER:
        found = Claims(organ_name=folder_of(path))
    else:
        found = NO_CLAIMS
    return Claims(
        claims.organ_name or found.organ_name,
        claims.modality_code or found.modality_code,
        claims.group or found.group,
        claims.split or found.split,
    )


def manifest_path(paths: Iterable[str]) -> str | None:
    """Where the manifest lies: in the root, or in the one folder that holds everything."""
    paths = [path for path in paths if not is_noise(path)]
    if MANIFEST_NAME in paths:
        return MANIFEST_NAME
    tops = {path.split("/")[0] for path in paths}
    nested = f"{next(iter(tops))}/{MANIFEST_NAME}" if len(tops) == 1 else ""
    return nested if nested in paths else None


def columns_among(names: Sequence[str], said: Mapping[str, str]) -> dict[str, str]:
    """By our name of a column, the manifest's: the one that somebody said, else one of a common name.

    Raises ManifestError where one that is needed is not there, or one that was said and nothing in its place.
    """
    by_word = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
    found: dict[str, str] = {}
    for ours, words in MANIFEST_COLUMNS.items():
        candidates = [said.get(ours, ""), *(by_word.get(word, "") for word in words)]
        free = (name for name in candidates if name and name in names and name not in found.values())
        found[ours] = next(free, "")
    lacking = [
        said.get(ours) or ours for ours in found if not found[ours] and ours in (*MANIFEST_NEEDS, *said)
    ]
    if lacking:
        raise ManifestError(
            f"The manifest lacks the column {' and the column '.join(lacking)}. "
            f"Its columns are: {', '.join(filter(None, names))[:300]}."
        )
    return found


def read_manifest(
    content: bytes, path: str = MANIFEST_NAME, columns: Mapping[str, str] | None = None
) -> Manifest:
    """Read a manifest.csv found at `path`; its own paths are relative to its folder. Raises ManifestError.

    columns: what it calls our columns, where somebody said so: {ours: theirs}.
    """
    try:
        text = content.decode("utf-8-sig")
        delimiter = ";" if ";" in text.split("\n", 1)[0] else ","
        rows = list(csv.DictReader(StringIO(text, newline=""), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError("The manifest is not a CSV file in UTF-8.") from error
    if not rows:
        raise ManifestError("The manifest has no rows.")
    names = [name for name in rows[0] if name is not None]
    theirs = columns_among(names, columns or {})
    folder = path.rpartition("/")[0]
    claims = {}
    for row in rows:
        value = {ours: (row.get(name) or "").strip() for ours, name in theirs.items()}
        if value["path"]:
            key = clean_path(f"{folder}/{value['path']}")
            claims[key] = Claims(value["organ"], value["modality"], value["group_id"], value["split"])
    return Manifest(path, claims, [name for name in names if name and name not in theirs.values()])
