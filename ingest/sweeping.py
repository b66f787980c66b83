"""What killed processes left in the storage: files as they came, of which nothing more is to be done.

A worker commits what became of a file, and then deletes what came in; killed in between, it leaves it to
another one (`ingest/claiming.py`). This finds what is left all the same, by earlier versions for one.
Only what the ledger knows is taken away here. Files without a row may be all that is left of an import, where
the database was restored from a backup: those are for check_collection, and whoever calls it.
"""

from collections.abc import Iterator
from itertools import chain

from ingest.checking import delete_orphan, digest_in, orphans_among, stored_names
from ingest.models import UploadedFile

FOLDERS = ("originals", "quarantine")


def sweep() -> int:
    """Delete what no image and no row of the ledger needs, an hour after it came in; returns how many."""
    return sum(map(delete_orphan, left_behind()))


def left_behind() -> Iterator[str]:
    """Their names. The storage is listed whole, some hundreds of names at a time."""
    for names in chain.from_iterable(map(stored_names, FOLDERS)):
        orphans = orphans_among([name for name in names if digest_in(name)])
        if orphans:
            rows = UploadedFile.objects.filter(sha256__in={digest_in(name) for name in orphans})
            ended = set(rows.values_list("sha256", flat=True))
            yield from (name for name in orphans if digest_in(name) in ended)
