"""Keyed hashes and patient groups."""

from typing import Any

import numpy as np
import pytest

from ingest.image_file import Frame, ReadImage
from ingest.pseudonyms import group_key_of, keyed_hash, patient_key_of

SHA256 = "ab" * 32


def read(**claims: str) -> ReadImage:
    return ReadImage("DICOM", (Frame(np.zeros((4, 4), np.uint8)),), 1, 8, **claims)


def test_keyed_hash_hides_and_is_stable() -> None:
    assert keyed_hash("PID-4711") == keyed_hash(" PID-4711 ")
    assert len(keyed_hash("PID-4711")) == 32
    assert keyed_hash("PID-4711") != keyed_hash("PID-4712")
    assert keyed_hash("") == keyed_hash("  ") == ""


def test_keyed_hash_of_undecodable_text() -> None:
    assert len(keyed_hash("M\udcfcller")) == 32


def test_keyed_hash_depends_on_the_key(settings: Any) -> None:
    before = keyed_hash("PID-4711")
    settings.PSEUDONYM_KEY = "another key"
    assert keyed_hash("PID-4711") != before


def test_group_is_the_claim_then_the_patient_then_the_study_then_the_file() -> None:
    image = read(patient_id="PID-4711", study_instance_uid="1.2.3")
    assert group_key_of(image, SHA256, claimed="c" * 32) == "c" * 32
    assert group_key_of(image, SHA256) == keyed_hash("PID-4711")
    assert group_key_of(read(study_instance_uid="1.2.3"), SHA256) == keyed_hash("1.2.3")
    assert group_key_of(read(), SHA256) == SHA256[:32]


@pytest.mark.parametrize("patient_id", ["ANONYMOUS", "anon", "0", "000000", "Unknown", "XXX", "-"])
def test_placeholder_is_no_patient(patient_id: str) -> None:
    assert patient_key_of(read(patient_id=patient_id)) == ""
