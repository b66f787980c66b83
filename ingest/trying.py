"""A dry run: each file is read as an import would, and the ledger tells what would become of it."""

from functools import partial

from django.db import transaction
from django.db.models import Q

from ingest.image_file import ReadImage
from ingest.keeping import kept_of
from ingest.labels import modality_code, organ_of_body_part
from ingest.models import FileState, Image, LabelSource, OrganClass, OrganName, UploadedFile
from ingest.quarantine import reason_to_hold
from ingest.reading import read_image
from ingest.storing import delete_unused_original

NAME_WAITS = "name_waits"


def try_out(row: UploadedFile, content: bytes) -> None:
    """Say of a locked row what would become of it; its bytes go when that is committed. The row is not saved.

    Raises RejectedFile as reading does. Nothing of the collection changes: no image, no organ, no name.
    """
    transaction.on_commit(partial(delete_unused_original, row.sha256))
    alike = row.batch.files.filter(sha256=row.sha256, state=FileState.CHECKED).exclude(pk=row.pk)
    merged = Q(duplicate_files__sha256=row.sha256, duplicate_files__reason_code="merged")
    if existing := Image.objects.filter(Q(sha256=row.sha256) | merged).order_by("frame_number").first():
        row.state, row.reason_code, row.duplicate_of = FileState.DUPLICATE, "duplicate", existing
        row.reason = f"The same bytes are already in the collection as image {existing.pk}."
    elif first := alike.order_by("pk").first():
        row.state, row.reason_code = FileState.DUPLICATE, "duplicate"
        row.reason = f"The same bytes come twice: as {first.path} too."[:500]
    else:
        image = read_image(content, row.batch.dataset.slice_rule)
        tell(row, image)
        if why := reason_to_hold(row, image):
            row.reason_code, sentence = why
            row.reason = f"It would wait in quarantine: {sentence}"[:500]
        kept_of(row, content, is_masked=False)


def tell(row: UploadedFile, image: ReadImage) -> None:
    """Give the row the labels that its images would have, and say so."""
    if not row.organ_name and row.batch.label_source == LabelSource.DICOM:
        row.organ_name = organ_of_body_part(image.body_part_examined)
    row.modality_code = row.modality_code or modality_code(image.modality)
    row.state = FileState.CHECKED
    row.reason_code, organ = organ_in_words(row.organ_name, row.batch.makes_organs)
    number = "one image" if len(image.frames) == 1 else f"{len(image.frames)} images"
    row.reason = f"It would be {number}: {organ}, {row.modality_code or 'no modality'}."


def organ_in_words(name: str, makes_organs: bool) -> tuple[str, str]:
    """A reason code, and what the organ of that name would be (see `naming.organ_meant`)."""
    known = OrganName.objects.filter(name=name).select_related("organ").first()
    if OrganClass.objects.filter(name=name).exists():
        return "", name
    if not name or (known and known.is_ignored):
        return "", "no organ"
    if known and known.organ:
        return "", f"{known.organ} ({name})"
    if makes_organs:
        return "new_organ", f"the new organ {name}"
    return NAME_WAITS, f"no organ until somebody decides what {name} means"
