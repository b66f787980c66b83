"""De-identifying DICOM by the basic profile of PS3.15 annex E, with options, before anything of it is kept.

What is to be done with which attribute is dicom-anonymizer's table E.1-1. Walking the file is done here: that
library leaves the items of sequences that stay as they are, and its new UIDs are random.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib.metadata import version
from io import BytesIO
from typing import Any

import pydicom
from dicomanonymizer import simpledicomanonymizer as table
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from ingest.dicom import capped_age
from ingest.dicom_parsing import looks_like_dicom, parse_dicom, parse_start
from ingest.image_file import RejectedFile, Tags
from ingest.picture_notes import without_notes
from ingest.pseudonyms import PLACEHOLDERS, keyed_hash, pseudonym_of
from ingest.windowing import text_of

TABLE = "dicomfields_2026c"  # the edition of the standard
# CID 7050, De-identification Method.
METHODS = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
}
CLEAN_PIXEL_DATA = "113101"
APPLIED = ("113100", "113107", "113108")
CHARACTERISTICS = ("PatientSex", "PatientAge", "PatientSize", "PatientWeight")
BIRTH = ("PatientBirthDate", "PatientBirthTime")
NAMING = (
    *("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName"),
    "AccessionNumber",
)
SHORTEST_IDENTIFIER = 4  # characters; what is shorter is found in any text
GAP = "–"  # in a path, where a word was that names the patient
MOST_DAYS = 3650  # that dates are moved back
ITEM_GROUP = 0xFFFE  # of items and their ends: stray ones are no attributes
TEXTS = {"AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"}
DAY = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})(.*)", re.DOTALL)

Action = Callable[[Dataset, Any], None]


@dataclass(frozen=True)
class Deidentified:
    """A file as it is kept."""

    content: bytes
    methods: tuple[str, ...]  # codes of CID 7050; none where nothing was to be done
    identifiers: tuple[str, ...] = ()  # texts that name the patient, to be kept out of paths
    group: str = ""  # keyed hash of the patient, else of the study; empty where the file tells of neither


def deidentify(content: bytes, *, is_masked: bool = False) -> Deidentified:
    """A DICOM file without what names its patient; a picture without what is noted beside its pixels.

    Always the same bytes for the same file. Identifiers become keyed pseudonyms, alike in all files; dates
    move back by days that are the patient's own. Private attributes go. Raises RejectedFile.
    """
    methods = (CLEAN_PIXEL_DATA,) if is_masked else ()
    if not looks_like_dicom(content):
        return Deidentified(without_notes(content), methods)
    try:
        ds = parse_dicom(content, [])
        identifiers, group = identifiers_of(ds), group_of(ds)
        pseudonym = pseudonym_of(text_of(ds, "PatientID"))
        Cleaning(identifiers, days_of(ds)).clean(ds)
        ds.PatientID = ds.PatientName = pseudonym
        note_methods(ds, methods := (*APPLIED, *methods))
        return Deidentified(written(ds), methods, identifiers, group)
    except RejectedFile:
        raise
    except Exception as error:  # malformed files come in many kinds
        sentence = "The file could not be de-identified, so it was not taken in."
        raise RejectedFile("not_deidentified", sentence) from error


def identifiers_in(content: bytes) -> tuple[str, ...]:
    """The words that name the patient in a DICOM file, be it an image or not; none where it is unreadable."""
    if not looks_like_dicom(content):
        return ()
    try:
        return identifiers_of(parse_start(content))
    except Exception:  # malformed files come in many kinds
        return ()


def identifiers_of(ds: Dataset) -> tuple[str, ...]:
    """The words that name the patient, as the file has them."""
    texts = [text_of(ds, keyword) for keyword in NAMING]
    words = {word for text in texts for word in re.split(r"[\^=\\\s\[\]',]+", text)}
    no_names = {*PLACEHOLDERS, text_of(ds, "BodyPartExamined").lower()}
    long = {word for word in words if len(word) >= SHORTEST_IDENTIFIER}
    return tuple(sorted(word for word in long if word.lower() not in no_names))


def without_words(path: str, words: tuple[str, ...]) -> str:
    """The path, with a dash for each of the words in it, in whatever case."""
    if not words:
        return path
    longest_first = sorted(words, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), GAP, path, flags=re.IGNORECASE)


def tags_without_words(tags: Tags, words: tuple[str, ...]) -> Tags:
    """The attributes that have none of the words in them."""
    return {key: value for key, value in tags.items() if without_words(str(value), words) == str(value)}


def group_of(ds: Dataset) -> str:
    """Keyed hash of the patient, else of the study."""
    return pseudonym_of(text_of(ds, "PatientID")) or keyed_hash(text_of(ds, "StudyInstanceUID"))


def days_of(ds: Dataset) -> int:
    """How many days the patient's dates move back: at least one."""
    return 1 + int(keyed_hash(f"days {group_of(ds)}"), 16) % MOST_DAYS


@cache
def actions() -> tuple[dict[int, Action], list[tuple[tuple[int, ...], Action]]]:
    """The table: what is done with an attribute, and with those of repeating groups, by (tag, masks)."""
    of_tags = table.initialize_actions(TABLE)
    of_groups = [(tag, action) for tag, action in of_tags.items() if len(tag) > 2]
    return {Tag(tag): action for tag, action in of_tags.items() if len(tag) == 2}, of_groups


def action_of(tag: BaseTag) -> Action | None:
    of_tags, of_groups = actions()
    if tag in of_tags:
        return of_tags[tag]
    for (group, element, group_mask, element_mask), action in of_groups:
        if (tag.group ^ group) & group_mask == 0 == (tag.element ^ element) & element_mask:
            return action
    return None


def uid_instead(value: str) -> str:
    """The keyed UID (PS3.5 B.2) that stands for another one."""
    hashed = keyed_hash(value)
    return f"2.25.{int(hashed, 16)}" if hashed else ""


def moved(value: str, days: int) -> str:
    """A date, or a date with a time, moved back; nothing of what is no date."""
    parts = DAY.fullmatch(value.strip())
    try:
        day = date(*map(int, parts.groups()[:3])) - timedelta(days)  # type: ignore[union-attr]
    except (AttributeError, ValueError, OverflowError):
        return ""
    return f"{day:%Y%m%d}".rjust(8, "0") + parts[4]  # type: ignore[index]


class Cleaning:
    """Goes through one file's attributes, those in sequences too."""

    def __init__(self, identifiers: tuple[str, ...], days: int) -> None:
        self.days = days
        encodings = ("utf-8", "latin-1")
        self.identifiers = {word.lower().encode(each, "ignore") for word in identifiers for each in encodings}

    def clean(self, ds: Dataset) -> None:
        for tag in list(ds.keys()):
            try:
                self.clean_element(ds, tag)
            except Exception:  # what cannot be read cannot be cleaned
                del ds[tag]

    def clean_element(self, ds: Dataset, tag: BaseTag) -> None:
        action, keyword = action_of(tag), keyword_for_tag(tag)
        raw = ds.get_item(tag)
        vr = vr_of(raw, tag)
        if tag.is_private or tag.group == ITEM_GROUP or vr == "UN":
            del ds[tag]
        elif keyword == "PatientAge":
            ds[tag].value = capped_age(str(ds[tag].value))
        elif keyword in CHARACTERISTICS:
            pass
        elif action is table.delete and vr not in ("DA", "DT", "TM"):
            del ds[tag]
        elif keyword in BIRTH:
            ds[tag].value = ""
        elif vr in ("DA", "DT"):
            ds[tag].value = [moved(value, self.days) for value in values_of(ds, tag)]
        elif vr == "SQ":
            self.clean_sequence(ds, tag, action)
        elif vr == "UI" and action:
            ds[tag].value = [uid_instead(value) for value in values_of(ds, tag)]
        elif action and vr != "TM":
            action(ds, tag)
        elif vr == "PN" or (vr in TEXTS and self.names_the_patient(raw)):
            ds[tag].value = ""

    def clean_sequence(self, ds: Dataset, tag: BaseTag, action: Action | None) -> None:
        if action in (None, table.delete_or_empty_or_replace_UID):
            for item in ds[tag].value:
                self.clean(item)
        else:
            ds[tag].value = []

    def names_the_patient(self, raw: Any) -> bool:
        value = raw.value if isinstance(raw, RawDataElement) else str(raw.value).encode()
        return any(word in (value or b"").lower() for word in self.identifiers)


def vr_of(element: Any, tag: BaseTag) -> str:
    """The value representation; the dictionary's where the file says nothing or "unknown"."""
    if element.VR not in (None, "UN"):
        return str(element.VR)
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def values_of(ds: Dataset, tag: BaseTag) -> Iterator[str]:
    value = ds[tag].value
    for each in [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value:
        yield str(each or "")


def note_methods(ds: Dataset, methods: tuple[str, ...]) -> None:
    """Tell in the file what was done with it (PS3.3 C.7.1.1, C.12.1)."""
    ds.PatientIdentityRemoved = "YES"
    ds.LongitudinalTemporalInformationModified = "MODIFIED"
    ds.DeidentificationMethod = [
        f"DICOM PS3.15 basic profile, table E.1-1 of {TABLE.rsplit('_', 1)[-1]}",
        f"dicom-anonymizer {version('dicom-anonymizer')}",
    ]
    codes = []
    for code in methods:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", METHODS[code]
        codes.append(item)
    ds.DeidentificationMethodCodeSequence = codes


def written(ds: Dataset) -> bytes:
    """The file's bytes, with a header of its own: no preamble, nothing about who sent it."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    sop_class = text_of(ds, "SOPClassUID") or str(ds.file_meta.get("MediaStorageSOPClassUID", ""))
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(text_of(ds, "SOPInstanceUID"))
    ds.file_meta, ds.preamble = meta, bytes(128)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=False)
    return buffer.getvalue()
