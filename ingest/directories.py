"""Folders of the file system from which images may come, below those that CBMIR_IMPORT_ROOTS names.

Nothing else is read, whatever links or ".." say.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from django.conf import settings

from ingest.image_file import RejectedFile
from ingest.labels import is_noise

GONE = ("unreadable", "The file may not be read, or is no longer there.")
NOTHING_THERE = "No files lie there."
CHANGED = ("changed", "The file was changed before it was taken in.")


class FolderRefused(Exception):
    """A folder that may not be imported or cannot be read; its text is a sentence for the person."""


class State(NamedTuple):
    """What tells the versions of a file apart."""

    size_bytes: int
    version: int  # of 63 bits: of a file, when it was changed, in nanoseconds


@dataclass(frozen=True)
class Directory:
    path: Path  # resolved: without links and ".."

    @classmethod
    def below_a_root(cls, text: str) -> "Directory | None":
        """The folder of that path; None unless it is a root or lies below one."""
        try:
            path = Path(text).resolve()
            is_folder = Path(text).is_absolute() and is_below_a_root(path) and path.is_dir()
        except (OSError, ValueError, RuntimeError):
            return None
        return cls(path) if is_folder else None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    def address_of(self, path: str) -> str:
        return str(self.path / path)

    def files(self) -> Iterator[tuple[str, State]]:
        """The path inside the folder and the state of every regular file that is not hidden, sorted.

        Links are no regular files here, and are not followed. Raises FolderRefused.
        """
        try:
            yield from files_below(self.path)
        except OSError as error:
            raise FolderRefused("The folder, or one in it, may not be read.") from error


def is_below_a_root(path: Path) -> bool:
    """`path` is resolved. Roots that are addresses of buckets are names of no folders."""
    roots = [Path(root).resolve() for root in settings.IMPORT_ROOTS if "://" not in root]
    return any(map(path.is_relative_to, roots))


def files_below(folder: Path) -> Iterator[tuple[str, State]]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if is_noise(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            for path, state in files_below(Path(entry.path)):
                yield f"{entry.name}/{path}", state
        elif entry.is_file(follow_symlinks=False):
            stat = entry.stat(follow_symlinks=False)
            yield entry.name, State(stat.st_size, stat.st_mtime_ns)


@contextmanager
def opened_file(address: str, state: State) -> Iterator[IO[bytes]]:
    """A file below a root, if it still is what it was when it was listed. Raises RejectedFile."""
    path = Path(address)
    try:
        # A folder on the way may have become a link since.
        if path.resolve(strict=True) != path or not is_below_a_root(path):
            raise RejectedFile("link", "This is a link to another file. Links are not followed.")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise RejectedFile(*GONE) from error
    with os.fdopen(descriptor, "rb") as stream:
        stat = os.fstat(stream.fileno())
        if State(stat.st_size, stat.st_mtime_ns) != state:
            raise RejectedFile(*CHANGED)
        yield stream
