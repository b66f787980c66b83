"""Which slices of volumes come in, as the data set says: of files of many frames, and of series."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from pydicom.dataset import Dataset as DicomDataset
from pydicom.sequence import Sequence

from ingest.image_file import LeftOut
from ingest.importing import import_queued
from ingest.ledger import causes_of, retry
from ingest.models import Dataset, FileState, Image, UploadBatch
from ingest.reading import read_image
from ingest.receiving import open_batch, receive_file
from ingest.slices import ALL, EVERY_NTH, SliceRule, information
from tests.factories import dicom_bytes, make_pixels
from tests.ingest.test_reading import data_set, file_of

ClientOf = Callable[[str | None], Client]
AIR = np.random.default_rng(0).integers(0, 4, (64, 64)).astype(np.uint8)


def slice_bytes(number: int, pixels: Any = None, **attributes: Any) -> bytes:
    """A slice of a CT series."""
    placed = {"ImagePositionPatient": [0, 0, number], "InstanceNumber": number}
    return dicom_bytes(pixels, seed=number, **placed | attributes)


def volume(frames: list[Any], places: list[float] | None = None) -> bytes:
    """An enhanced CT object; `places` are along its normal."""
    ds = data_set(np.stack(frames), frames=len(frames), WindowCenter=128, WindowWidth=256)
    if places:
        shared, plane = DicomDataset(), DicomDataset()
        plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        shared.PlaneOrientationSequence = Sequence([plane])
        ds.SharedFunctionalGroupsSequence = Sequence([shared])
        groups = []
        for place in places:
            group, position = DicomDataset(), DicomDataset()
            position.ImagePositionPatient = [0, 0, place]
            group.PlanePositionSequence = Sequence([position])
            groups.append(group)
        ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return file_of(ds)


def numbers_of(content: bytes, rule: SliceRule) -> list[int]:
    return [frame.frame_number for frame in read_image(content, rule).frames]


def import_series(batch: UploadBatch, contents: list[bytes]) -> None:
    for number, content in enumerate(contents, start=1):
        receive_file(batch, f"{number}.dcm", content)
    import_queued(batch)


def states_of(batch: UploadBatch) -> dict[str, str]:
    return dict(batch.files.values_list("path", "state"))


# Files of many frames


def test_all_frames_are_taken() -> None:
    content = volume([make_pixels(number) for number in range(12)])
    assert numbers_of(content, SliceRule(ALL)) == list(range(1, 13))


def test_one_of_every_few_frames_starts_with_the_first() -> None:
    content = volume([make_pixels(number) for number in range(12)])
    assert numbers_of(content, SliceRule(EVERY_NTH, step=5)) == [1, 6, 11]


def test_frames_are_counted_along_the_volume_not_as_they_are_stored() -> None:
    places = [50.0, 10.0, 40.0, 0.0, 30.0, 20.0]
    content = volume([make_pixels(number) for number in range(6)], places)
    assert numbers_of(content, SliceRule(EVERY_NTH, step=3)) == [4, 5]  # at 0 and at 30 mm


def test_informative_frames_are_spread_and_beat_their_neighbours() -> None:
    frames = [make_pixels(number) if number in (1, 3) else AIR for number in range(6)]
    assert numbers_of(volume(frames), SliceRule(most=2)) == [2, 4]


def test_nearly_empty_frames_are_left_out_where_others_are_not() -> None:
    assert numbers_of(volume([AIR, make_pixels(1), AIR]), SliceRule()) == [2]
    assert numbers_of(volume([AIR, AIR]), SliceRule())  # a file of many frames is never left out


def test_noise_is_not_information() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)
    assert information(np.zeros((512, 512), np.uint8)) == 0
    ramp = np.tile(np.linspace(0, 255, 512).astype(np.uint8), (512, 1))
    assert information(noise) < information(ramp) / 3


# Series of files


def test_a_slice_of_air_is_left_out_and_told(db: None) -> None:
    batch = open_batch("ward", "dicom", None)
    import_series(batch, [slice_bytes(1), slice_bytes(2, AIR), slice_bytes(3)])
    assert states_of(batch) == {"1.dcm": "imported", "2.dcm": "left_out", "3.dcm": "imported"}
    (cause,) = causes_of(batch)
    assert (cause.state, cause.code, cause.files, cause.retryable) == ("left_out", "empty_slice", 1, 1)
    assert cause.sentence.endswith(".")


def test_one_of_every_few_slices_goes_by_instance_number(db: None) -> None:
    """Whoever reads them, in whatever order."""
    batch = open_batch("ward", "dicom", None, slice_choice=EVERY_NTH, slice_step=4)
    import_series(batch, [slice_bytes(number) for number in range(9, 0, -1)])
    taken = Image.objects.values_list("tags__InstanceNumber", flat=True)
    assert sorted(taken) == [1, 5, 9]
    assert batch.files.filter(state=FileState.LEFT_OUT, reason_code="not_nth_slice").count() == 6


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImagePositionPatient": None},  # no slice of a volume, such as an X-ray
        {"InstanceNumber": None},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    ],
)
def test_what_is_no_numbered_slice_is_taken(attributes: dict[str, Any]) -> None:
    content = slice_bytes(2, **attributes)
    assert read_image(content, SliceRule(EVERY_NTH)).frames
    with pytest.raises(LeftOut):
        read_image(slice_bytes(2), SliceRule(EVERY_NTH))


def test_a_query_may_be_a_slice_of_air() -> None:
    content = slice_bytes(2, AIR)
    assert read_image(content, middle_frame_only=True).frames
    with pytest.raises(LeftOut):
        read_image(content)


def test_left_out_slices_come_in_after_another_choice(db: None) -> None:
    batch = open_batch("ward", "dicom", None, slice_choice=EVERY_NTH, slice_step=3)
    import_series(batch, [slice_bytes(number) for number in range(1, 4)])
    assert retry(batch) == 0  # nothing was rejected
    Dataset.objects.update(slice_choice=ALL)
    assert retry(batch, "not_nth_slice") == 2
    import_queued(batch)
    assert set(states_of(batch).values()) == {"imported"}
    assert Image.objects.count() == 3


def test_tags_are_those_of_the_frame(db: None) -> None:
    shared, region, code = DicomDataset(), DicomDataset(), DicomDataset()
    code.CodeMeaning = "Knee"
    region.AnatomicRegionSequence, region.FrameLaterality = Sequence([code]), "R"
    measures = DicomDataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 6
    shared.FrameAnatomySequence, shared.PixelMeasuresSequence = Sequence([region]), Sequence([measures])
    groups = []
    for center, kind in ((100, "PHASE"), (200, "MAGNITUDE")):
        group, voi, frame_type = DicomDataset(), DicomDataset(), DicomDataset()
        voi.WindowCenter, voi.WindowWidth = center, 256
        frame_type.FrameType = ["ORIGINAL", "PRIMARY", kind]
        group.FrameVOILUTSequence, group.MRImageFrameTypeSequence = Sequence([voi]), Sequence([frame_type])
        groups.append(group)
    ds = data_set(
        np.stack([make_pixels(1), make_pixels(2)]),
        frames=2,
        ImageType=["ORIGINAL", "PRIMARY", "MIXED"],
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(groups),
    )
    batch = open_batch("ward", "dicom", None)
    import_series(batch, [file_of(ds)])
    first, second = Image.objects.order_by("frame_number")
    assert (first.tags["WindowCenter"], second.tags["WindowCenter"]) == (100, 200)
    assert (first.tags["ImageType"][2], second.tags["ImageType"][2]) == ("PHASE", "MAGNITUDE")
    assert (first.tags["PixelSpacing"], first.tags["SliceThickness"]) == ([0.5, 0.25], 6)
    assert (first.tags["Laterality"], first.body_part_examined) == ("R", "Knee")
    assert any("anatomic region was taken" in sentence for sentence in first.assumptions)


# Where it is set


def test_a_curator_chooses_on_the_data_sets_page(client_of: ClientOf) -> None:
    dataset = open_batch("ward", "dicom", None).dataset
    url = reverse("ingest:dataset_slices", args=[dataset.pk])
    chosen = {"slice_choice": EVERY_NTH, "slice_step": 7}
    assert client_of(None).post(url, chosen).status_code == 302
    assert client_of("clinician").post(url, chosen).status_code == 403
    dataset.refresh_from_db()
    assert dataset.slice_choice == "informative"
    client = client_of("curator")
    page = client.post(url, chosen, follow=True).content.decode()
    assert "files to come" in page
    dataset.refresh_from_db()
    assert (dataset.slice_rule.choice, dataset.slice_rule.step) == (EVERY_NTH, 7)
    refused = client.post(url, {"slice_choice": EVERY_NTH, "slice_step": 0})
    assert refused.status_code == 422
    assert "greater than or equal to 2" in refused.content.decode()
    dataset.refresh_from_db()
    assert dataset.slice_step == 7


def test_the_pages_tell_what_was_left_out(client_of: ClientOf) -> None:
    batch = open_batch("ward", "dicom", None)
    import_series(batch, [slice_bytes(1), slice_bytes(2, AIR)])
    client = client_of("curator")
    ledger = client.get(reverse("ingest:batch_detail", args=[batch.pk])).content.decode()
    assert "shows almost nothing" in ledger
    assert "rejected" not in ledger
    of_cause = client.get(reverse("ingest:batch_detail", args=[batch.pk]), {"cause": "empty_slice"})
    assert [file.path for file in of_cause.context["page"]] == ["2.dcm"]
    assert "1 left out" in client.get(reverse("ingest:batch_list")).content.decode()
    page = client.get(reverse("ingest:dataset_detail", args=[batch.dataset.pk])).content.decode()
    assert "1 file of this data set was left out" in page


def test_an_upload_chooses_for_a_new_data_set(client_of: ClientOf) -> None:
    from django.core.files.uploadedfile import SimpleUploadedFile

    def upload(choice: str) -> Dataset:
        file = SimpleUploadedFile("a.dcm", slice_bytes(1))
        asked = {"dataset": "ward", "label_source": "dicom", "slice_choice": choice, "slice_step": "5"}
        client_of("curator").post(reverse("ingest:batch_create"), {**asked, "loose_files": file})
        return Dataset.objects.get()

    assert (upload(EVERY_NTH).slice_choice, upload(EVERY_NTH).slice_step) == (EVERY_NTH, 5)
    assert upload(ALL).slice_choice == EVERY_NTH  # one that is there keeps its choice


def test_the_command_chooses_for_a_new_data_set(db: None, tmp_path: Any) -> None:
    for number in range(1, 6):
        (tmp_path / f"{number}.dcm").write_bytes(slice_bytes(number))
    chosen = ["--slices", EVERY_NTH, "--slice-step", "2"]
    call_command("import_images", str(tmp_path), "--dataset", "ward", *chosen)
    assert (Image.objects.count(), Dataset.objects.get().slice_step) == (3, 2)
    with pytest.raises(CommandError, match="changed on its page"):
        call_command("import_images", str(tmp_path), "--dataset", "ward", *chosen)
    with pytest.raises(CommandError, match="greater than or equal to 2"):
        call_command("import_images", str(tmp_path), "--dataset", "other", "--slice-step", "1")
