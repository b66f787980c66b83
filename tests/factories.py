"""Makes the rows and files that tests start from: all real, all small."""

import tarfile
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import connection
from PIL import Image as PillowImage
from pydicom.dataset import Dataset as DicomDataset
from pydicom.dataset import FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ingest.claiming import claim_files
from ingest.models import Dataset, Image, Modality, OrganClass, UploadBatch, UploadedFile
from ingest.renditions import network_rendition, preview
from ml.models import ModelVersion, VersionStatus
from search.models import Embedding
from search.roles import STAFF_ROLES, create_roles

ORGANS, MODALITIES = ["brain", "chest"], ["CT", "MR"]
_numbers = iter(range(1, 10**9))


def make_user(role: str) -> User:
    """A user of the role (any number of them); "nobody" belongs to no group."""
    create_roles()
    user = User.objects.create_user(f"{role}-{next(_numbers)}", password="a long enough password")
    if role != "nobody":
        user.groups.add(Group.objects.get(name=role))
        user.is_staff = role in STAFF_ROLES
        user.save()
    return user


def make_pixels(seed: int = 0, organ: str = "brain", size: int = 64) -> np.ndarray:
    """uint8 (size, size): a bright disc for a brain, two dark discs for a chest, with noise by seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    if organ == "brain":
        picture = 200.0 * (x**2 + y**2 < 0.5)
    else:
        picture = 180.0 - 140.0 * (((np.abs(x) - 0.45) ** 2 * 4 + y**2) < 0.4)
    return np.clip(picture + rng.normal(0, 12, picture.shape) + rng.uniform(0, 30), 0, 255).astype(np.uint8)


def png_bytes(pixels: np.ndarray | None = None, seed: int = 0) -> bytes:
    buffer = BytesIO()
    PillowImage.fromarray(make_pixels(seed) if pixels is None else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def dicom_bytes(pixels: np.ndarray | None = None, seed: int = 0, **attributes: Any) -> bytes:
    """A CT slice of 12 bits with a patient's name, birth date and identifier; `attributes` by keyword."""
    pixels = make_pixels(seed) if pixels is None else pixels
    ds = DicomDataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(
        entropy_srcs=["sop", str(seed)]
    )
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["study", "one"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series", "one"])
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Meier^Anna", "PID-4711", "19610203"
    ds.PatientSex, ds.PatientAge, ds.Modality, ds.BodyPartExamined = "F", "063Y", "CT", "HEAD"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def dicomdir_bytes() -> bytes:
    """The index that lies in the root of a DICOM medium."""
    indexed = {"StudyDate": "20200102", "StudyTime": "0304", "StudyID": "1", "AccessionNumber": "2"}
    files = FileSet()
    files.add(pydicom.dcmread(BytesIO(dicom_bytes(SeriesNumber=1, InstanceNumber=1, **indexed))))
    with TemporaryDirectory() as folder:
        files.write(folder)
        return Path(folder, "DICOMDIR").read_bytes()


def zip_bytes(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_bytes(files: dict[str, bytes], compression: str = "") -> bytes:
    """`compression` is "", "gz", "bz2" or "xz"."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return buffer.getvalue()


def make_image(
    seed: int | None = None, organ: str | None = "brain", modality: str | None = "CT", **fields: Any
) -> Image:
    """An image of the collection with its files in the storage."""
    seed = next(_numbers) if seed is None else seed
    pixels = make_pixels(seed, organ or "brain")
    stem = f"{seed:064x}"
    values: dict[str, Any] = {
        "dataset": fields.pop("dataset", None) or Dataset.objects.get_or_create(name="test")[0],
        "sha256": stem,
        "source_path": f"{organ}/{seed}.png",
        "organ": OrganClass.objects.get_or_create(name=organ)[0] if organ else None,
        "modality": Modality.objects.get_or_create(code=modality)[0] if modality else None,
        "original": default_storage.save(f"originals/{stem}", ContentFile(png_bytes(pixels))),
        "rendition": default_storage.save(f"renditions/{stem}.png", ContentFile(network_rendition(pixels))),
        "preview": default_storage.save(f"previews/{stem}.jpg", ContentFile(preview(pixels))),
        "group_key": stem[-32:],
        "file_format": "PNG",
        "rows": pixels.shape[0],
        "columns": pixels.shape[1],
        "bits_stored": 8,
    }
    return Image.objects.create(**{**values, **fields})


def tiny_shape(organs: int = 2, modalities: int = 2) -> Any:
    """The paper's network with few channels; FC1 keeps its 4096 numbers."""
    from ml.network import NetworkShape

    return NetworkShape(organs, modalities, channels=(4, 4, 4, 4, 4), fc2=32, fc3=32)


def save_tiny_checkpoint(folder: Path, seed: int = 0, learnt_in: dict[str, list[str]] | None = None) -> None:
    import torch

    from ml.calibration import Calibration
    from ml.checkpoint import Checkpoint, save_checkpoint
    from ml.network import OrganNetwork, initialise_for_relu
    from ml.preprocess import Preprocessing
    from ml.projection import Projection

    torch.manual_seed(seed)
    network = OrganNetwork(tiny_shape())
    initialise_for_relu(network)
    # Every eighth unit of FC1: as orthonormal as what a training fits, without its seconds.
    projection = Projection(np.zeros(4096, np.float32), np.eye(4096, dtype=np.float32)[::8].copy())
    calibration = Calibration(organ_temperature=0.05)  # as sure of an organ as a trained network
    checkpoint = Checkpoint(
        network,
        Preprocessing(),
        projection,
        ORGANS,
        MODALITIES,
        "default",
        calibration=calibration,
        learnt_in=learnt_in or {},
    )
    save_checkpoint(checkpoint, folder)


def make_model_version(
    status: str = VersionStatus.ACTIVE, seed: int = 0, learnt_in: dict[str, list[str]] | None = None
) -> ModelVersion:
    name = f"models/test-{next(_numbers)}"
    save_tiny_checkpoint(Path(settings.MEDIA_ROOT) / name, seed, learnt_in)
    return ModelVersion.objects.create(
        recipe="default", checkpoint=name, organs=ORGANS, modalities=MODALITIES, status=status
    )


def make_embedding(
    image: Image, version: ModelVersion, fc1: np.ndarray, projection: np.ndarray | None = None, **fields: Any
) -> Embedding:
    values: dict[str, Any] = {
        "predicted_organ": OrganClass.objects.get_or_create(name="brain")[0],
        "organ_probability": 0.9,
        "predicted_modality": Modality.objects.get_or_create(code="CT")[0],
        "modality_probability": 0.8,
    }
    projection = fc1[:512] if projection is None else projection
    return Embedding.objects.create(
        image=image, model_version=version, fc1=fc1, projection=projection, **{**values, **fields}
    )


def make_bare_images(number: int, dataset: Dataset | None = None) -> list[Image]:
    """Images not saved yet, with no files in the storage: for searching, which reads none."""
    dataset = dataset or Dataset.objects.get_or_create(name="test")[0]
    images = []
    for _ in range(number):
        digits = f"{next(_numbers):064x}"
        image = Image(
            dataset=dataset, sha256=digits, source_path=f"{digits[-6:]}.png", group_key=digits[-32:]
        )
        image.file_format, image.rows, image.columns, image.bits_stored = "PNG", 64, 64, 8
        images.append(image)
    return images


def make_embeddings(
    images: Sequence[Image], version: ModelVersion, fc1: np.ndarray, projection: np.ndarray | None = None
) -> list[Embedding]:
    """One for each image, in their order; all are brains in CT to the network."""
    organ = OrganClass.objects.get_or_create(name="brain")[0]
    modality = Modality.objects.get_or_create(code="CT")[0]
    projection = fc1[:, :512] if projection is None else projection
    return Embedding.objects.bulk_create(
        Embedding(
            image=image,
            model_version=version,
            fc1=fc1[row],
            projection=projection[row],
            predicted_organ=organ,
            organ_probability=0.9,
            predicted_modality=modality,
            modality_probability=0.8,
        )
        for row, image in enumerate(images)
    )


def remove_all_rows() -> None:
    """The collection, the versions and all that hangs on them; for rows that no transaction takes back."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE ingest_dataset, ingest_organclass, ingest_modality, ml_modelversion CASCADE")


def claim_one(batch: UploadBatch | None = None) -> UploadedFile | None:
    """The oldest queued file, claimed as a worker does it."""
    return next(iter(claim_files(batch, most=1)), None)
