"""Archives: zips, and tars as they are or compressed. What is in them, and whether it may come out."""

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, Any, NoReturn

from django.conf import settings

from ingest.dicom_parsing import looks_like_dicom
from ingest.image_file import RejectedFile
from ingest.labels import clean_path, has_archive_name, is_noise
from ingest.pictures import format_of

MAX_MEMBERS = 10_000  # with those of the archives inside
MAX_DEPTH = 3  # an archive in an archive in an archive
BYTES_ALWAYS_TAKEN = 64 * 2**20
INFLATION_TAKEN = 100  # times the archive's size
HANDLED_TIMES = 4  # inflated in all, of archives inside and of refused ones too: times MAX_UPLOAD_BYTES
CHUNK_BYTES = 2**20
SPOOL_BYTES = 16 * 2**20  # a member up to this size stays in memory
LARGEST_READ = 8 * 2**20  # the list of files of a zip with 10,000 long names has 3 MB
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
ZIP_ENCRYPTED, ZIP_UTF8 = 0x1, 0x800  # bits of a member's flags
# Zips that are documents (Office, OpenDocument and EPUB, iWork) or programs, by a member that each has.
MEMBERS_OF_DOCUMENTS = {"[Content_Types].xml", "mimetype", "Index/Document.iwa", "META-INF/MANIFEST.MF"}
OPENERS_BY_START: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
# What the libraries raise for what is damaged.
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(RuntimeError, ValueError, OverflowError, MemoryError),
)


@dataclass(frozen=True)
class Member:
    """A file in an archive. `open` gives a stream of its bytes, or raises RejectedFile or one of DAMAGED."""

    path: str
    open: Callable[[], IO[bytes]]


@dataclass
class Allowance:
    """What one archive that was sent may unfold to, with all archives inside it."""

    sent_bytes: int
    depth: int = 0
    members: int = 0
    kept_bytes: int = 0  # of files; of an archive inside, only until its own members are counted
    handled_bytes: int = 0

    def take_member(self) -> None:
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise RejectedFile("too_many_members", f"The archive has more than {MAX_MEMBERS} files in it.")

    def take_bytes(self, size_bytes: int) -> None:
        self.kept_bytes += size_bytes
        self.handled_bytes += size_bytes
        limit = settings.MAX_UPLOAD_BYTES
        if self.kept_bytes > limit or self.handled_bytes > HANDLED_TIMES * limit:
            raise RejectedFile("archive_too_large", f"The archive unpacks to more than {limit / 2**20:g} MB.")
        if self.kept_bytes > max(BYTES_ALWAYS_TAKEN, INFLATION_TAKEN * self.sent_bytes):
            raise RejectedFile("archive_bomb", "The archive grows to an absurd size when it is unpacked.")


def is_archive(path: str, file: IO[bytes]) -> bool:
    """Whether a file is to be unpacked: its contents tell.

    Documents of office programs are zips too: they stay the files that they are, unless named .zip. A
    compressed file is an archive when a tar is inside. What is named like an archive and is neither one nor
    an image counts as one, so that it is refused as a damaged archive. Leaves `file` anywhere.
    """
    head, is_named_so = start_of(file), has_archive_name(path)
    if is_tar(head):
        return True
    if head.startswith(ZIP_STARTS):
        return is_named_so or not is_document(file)
    if opener := opener_for(head):
        file.seek(0)
        with suppress(*DAMAGED), opener(file) as stream:
            return is_tar(stream.read(tarfile.BLOCKSIZE)) or is_named_so
    return bool(head) and is_named_so and not looks_like_dicom(head) and not format_of(head)


@contextmanager
def unpacked(file: IO[bytes], allowance: Allowance) -> Iterator[list[Member]]:
    """The members of an archive that are no noise, to be read while it is open.

    Everything is inflated once before, keeping nothing, because sizes in an archive's headers cannot be
    trusted. Raises RejectedFile where the archive is refused as a whole. A member that is damaged, a link or
    a device raises RejectedFile on its own when it is read; links are never followed.
    """
    allowance.depth += 1
    if allowance.depth > 1:
        allowance.kept_bytes -= file.seek(0, os.SEEK_END)  # its members count instead
    before = allowance.members, allowance.kept_bytes
    try:
        with ExitStack() as stack:
            try:
                members = checked_members(file, allowance, stack)
            except RejectedFile:
                allowance.members, allowance.kept_bytes = before
                raise
            except DAMAGED as error:
                allowance.members, allowance.kept_bytes = before
                sentence = "This is not a zip or tar archive, or it is damaged or cut off."
                raise RejectedFile("bad_archive", sentence) from error
            yield members
    finally:
        allowance.depth -= 1


def checked_members(file: IO[bytes], allowance: Allowance, stack: ExitStack) -> list[Member]:
    """List the members and see how much comes out. `stack` keeps open what they are read from."""
    if allowance.depth > MAX_DEPTH:
        sentence = f"Archives lie in one another more than {MAX_DEPTH} deep."
        raise RejectedFile("too_deep", sentence)
    members = []
    for member in members_of(file, allowance, stack):
        if not is_noise(clean_path(member.path)):
            allowance.take_member()
            members.append(member)
    if not members:
        raise RejectedFile("empty_archive", "The archive has no files in it.")
    for member in members:
        for chunk in readable_chunks(member):
            allowance.take_bytes(len(chunk))
    return members


def members_of(file: IO[bytes], allowance: Allowance, stack: ExitStack) -> Iterator[Member]:
    head = start_of(file)
    if opener := opener_for(head):
        file = stack.enter_context(decompressed(file, opener, allowance))
        head = start_of(file)
        if not is_tar(head) and any(head):
            raise tarfile.ReadError("no tar is inside")
    wary: Any = WaryFile(file)
    if is_tar(head) or not any(head):  # zeros: a tar without files
        yield from tar_members(stack.enter_context(tarfile.TarFile(fileobj=wary)))
    else:
        yield from zip_members(stack.enter_context(zipfile.ZipFile(wary)))


def zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        path = readable_name(info)
        if path.endswith("/") or is_noise(clean_path(path)):
            continue
        if info.flag_bits & ZIP_ENCRYPTED:
            raise RejectedFile("encrypted_zip", "The zip is encrypted. Send it without a password.")
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        yield Member(path, refuse_link if is_link else partial(archive.open, info))


def readable_name(info: zipfile.ZipInfo) -> str:
    """A member's name: zips often hold UTF-8 without saying so. Names in other encodings stay garbled."""
    if not info.flag_bits & ZIP_UTF8:
        with suppress(UnicodeError):
            return info.filename.encode("cp437").decode()
    return info.filename


def tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    offset = 0
    while info := archive.next():
        if archive.offset <= offset:  # a negative size leads back
            raise tarfile.ReadError("going round in circles")
        offset = archive.offset
        # Every header is kept by the archive, and in each a copy of the global one: flat memory without.
        archive.members.clear()  # type: ignore[attr-defined]
        archive.pax_headers, info.pax_headers = {}, {}
        if info.isreg():
            yield Member(info.name, partial(open_tar_member, archive, info))
        elif not info.isdir():
            yield Member(info.name, refuse_link if info.issym() or info.islnk() else refuse_special)
    # To tarfile a broken header is the end like any other.
    archive.fileobj.seek(archive.offset)  # type: ignore[union-attr]
    if any(archive.fileobj.read(tarfile.BLOCKSIZE)):  # type: ignore[union-attr]
        raise tarfile.ReadError("no header where one should be")


def open_tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(info)
    assert stream is not None  # as it is for every regular file
    return stream


def refuse_link() -> NoReturn:
    raise RejectedFile("link", "This is a link to another file. Links in archives are not followed.")


def refuse_special() -> NoReturn:
    raise RejectedFile("special", "This is not a file but a device, a pipe or the like.")


class WaryFile:
    """A file that never gives much at once: the libraries read headers and lists of any size into memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size if 0 <= size <= LARGEST_READ else LARGEST_READ + 1)
        if len(content) > LARGEST_READ:
            sentence = "The archive's list of files, or a header in it, is too large to be read."
            raise RejectedFile("too_many_members", sentence)
        return content


@contextmanager
def decompressed(
    file: IO[bytes], opener: Callable[[Any], IO[bytes]], allowance: Allowance
) -> Iterator[IO[bytes]]:
    """The tar inside a compressed file, seekable. Its members are counted, not itself."""
    file.seek(0)
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        with opener(file) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                allowance.take_bytes(len(chunk))
                spool.write(chunk)
        allowance.kept_bytes -= spool.tell()
        yield spool


@contextmanager
def inflated(member: Member) -> Iterator[IO[bytes]]:
    """A member's bytes as a seekable file. Raises RejectedFile where they cannot be had."""
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        for chunk in chunks_of(member):
            spool.write(chunk)
        yield spool


def chunks_of(member: Member) -> Iterator[bytes]:
    try:
        with member.open() as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
    except NotImplementedError as error:
        sentence = "The file is compressed in a way that is not known here. Send it without compression."
        raise RejectedFile("unsupported_compression", sentence) from error
    except DAMAGED as error:
        raise RejectedFile("damaged", "The file is damaged inside the archive.") from error


def readable_chunks(member: Member) -> Iterator[bytes]:
    """As far as they can be had: what is wrong with a member is told when it is received."""
    with suppress(RejectedFile):
        yield from chunks_of(member)


def start_of(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(tarfile.BLOCKSIZE)


def opener_for(head: bytes) -> Callable[[Any], IO[bytes]] | None:
    return next((opener for start, opener in OPENERS_BY_START.items() if head.startswith(start)), None)


def is_tar(head: bytes) -> bool:
    """Whether the first block of a file is a tar's header, with a checksum that is right."""
    with suppress(tarfile.TarError, ValueError):
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        return True
    return False


def is_document(file: IO[bytes]) -> bool:
    wary: Any = WaryFile(file)
    with suppress(*DAMAGED, RejectedFile), zipfile.ZipFile(wary) as archive:
        return not MEMBERS_OF_DOCUMENTS.isdisjoint(archive.namelist())
    return False
