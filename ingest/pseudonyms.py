"""Keyed hashes in place of whatever could name a patient."""

import hashlib
import hmac

from django.conf import settings

from ingest.image_file import ReadImage

LENGTH = 32  # hexadecimal digits: 128 bits

# What de-identification leaves in PatientID; one such value stands for many patients.
PLACEHOLDERS = {
    "anon",
    "anonymous",
    "anonymized",
    "anonymised",
    "none",
    "unknown",
    "n/a",
    "na",
    "null",
    "xxx",
}


def keyed_hash(value: str) -> str:
    """HMAC-SHA256 of `value` under this installation's key, 32 hexadecimal digits; "" for ""."""
    value = value.strip()
    if not value:
        return ""
    key = settings.PSEUDONYM_KEY.encode()
    return hmac.new(key, value.encode(errors="backslashreplace"), hashlib.sha256).hexdigest()[:LENGTH]


def pseudonym_of(patient_id: str) -> str:
    """Hash of a PatientID; "" where it is absent or a placeholder that many patients share."""
    plain = patient_id.strip().lower()
    is_placeholder = plain in PLACEHOLDERS or not plain.strip("0x -_^")
    return "" if is_placeholder else keyed_hash(patient_id)


def patient_key_of(image: ReadImage) -> str:
    return pseudonym_of(image.patient_id)


def group_key_of(image: ReadImage, sha256: str, claimed: str = "") -> str:
    """What images of one patient or volume share: the claimed group's hash, else the patient's, else the
    study's, else the file's own digest."""
    return claimed or patient_key_of(image) or keyed_hash(image.study_instance_uid) or sha256[:LENGTH]
