"""The demo collection: phantoms of organs in several modalities, written as true DICOM files."""

from ingest.phantoms.anatomy import PHANTOMS, Phantom
from ingest.phantoms.writing import write_collection

__all__ = ["PHANTOMS", "Phantom", "write_collection"]
