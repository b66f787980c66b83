"""TIFF (revision 6.0, and BigTIFF) without what is noted beside the pixels: its directories written anew.

Strips and tiles are copied as they are encoded; attributes that are not needed to show them are left behind,
with whatever else is in the file.
"""

import struct
from collections.abc import Iterator

KEPT_TAGS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 277, 278, 284, 292, 293),  # size, depth, compression
    *(273, 279, 322, 323, 324, 325, 347),  # strips, tiles, tables of JPEG
    *(274, 282, 283, 296),  # which side is up, resolution
    *(280, 281, 317, 318, 319, 320, 332, 334, 338, 339, 340, 341),  # what values mean
    *(529, 530, 531, 532, 34675),  # colours
}
PARTS = {273: 279, 324: 325}  # where strips and tiles begin, and how long each is
BITS_PER_SAMPLE, COMPRESSION, ORIENTATION, XMP = 258, 259, 274, 700
ROWS, COLUMNS = 257, 256
UNCOMPRESSED, OLD_JPEG = 1, 6
BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}

Entry = tuple[int, int, bytes]  # type, count, value
Entries = dict[int, Entry]


class OddFile(Exception):
    """A TIFF that is better written anew from its pixels."""


def tiff_without_notes(content: bytes) -> bytes:
    """The same bytes where nothing would be left behind; none where the file is an odd one."""
    try:
        return Tiff(content).rewritten()
    except (OddFile, struct.error, KeyError, ValueError):
        return b""


class Tiff:
    """One file, as it is read and as it is written."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.order = "<" if content[:2] == b"II" else ">"
        self.is_big = struct.unpack_from(f"{self.order}H", content, 2) == (43,)
        self.letter, self.width, self.type = ("Q", 8, 16) if self.is_big else ("I", 4, 4)  # of an offset
        self.copied: dict[tuple[int, int], int] = {}  # where the parts of the old file are in the new one
        self.left_out = set[int]()  # tags
        self.new = bytearray(content[: self.width])

    def rewritten(self) -> bytes:
        link, seen = len(self.new), set[int]()
        self.new += bytes(self.width)
        (place,) = struct.unpack_from(self.order + self.letter, self.content, link)
        while place and place not in seen:
            seen.add(place)
            entries, place = self.read(place)
            link = self.write(entries, link)
            if len(self.new) > 2 * len(self.content) + 4096:
                raise OddFile
        is_all_there = not self.left_out and len(self.new) >= len(self.content)
        return self.content if is_all_there else bytes(self.new)

    def read(self, place: int) -> tuple[Entries, int]:
        """The kept entries of the directory at that place, and where the next one is."""
        count_format = f"{self.order}{'Q' if self.is_big else 'H'}"
        (number,) = struct.unpack_from(count_format, self.content, place)
        place += struct.calcsize(count_format)
        entries = {}
        for _ in range(number):
            tag, kind, count = struct.unpack_from(f"{self.order}HH{self.letter}", self.content, place)
            if tag in KEPT_TAGS:
                entries[tag] = (kind, count, self.value(kind, count, place + 4 + self.width))
            else:
                self.left_out.add(tag)
            place += 4 + 2 * self.width
        if (XMP in self.left_out and ORIENTATION not in entries) or not self.is_plain(entries):
            raise OddFile
        return entries, struct.unpack_from(self.order + self.letter, self.content, place)[0]

    def value(self, kind: int, count: int, place: int) -> bytes:
        size = BYTES_OF_TYPE[kind] * count
        if size > self.width:
            (place,) = struct.unpack_from(self.order + self.letter, self.content, place)
        return self.slice(place, size)

    def slice(self, place: int, size: int) -> bytes:
        if place + size > len(self.content):
            raise OddFile
        return self.content[place : place + size]

    def is_plain(self, entries: Entries) -> bool:
        """Whether its strips or tiles hold all of its pixels, as their lengths say."""
        (compression,) = self.integers(entries.get(COMPRESSION)) or [UNCOMPRESSED]
        lengths = [self.integers(entries.get(tag)) for tag in PARTS.values() if tag in entries]
        if compression == UNCOMPRESSED and lengths:
            (rows,), (columns,) = self.integers(entries[ROWS]), self.integers(entries[COLUMNS])
            bits = self.integers(entries.get(BITS_PER_SAMPLE)) or [1]
            return sum(lengths[0]) >= rows * ((columns * sum(bits) + 7) // 8)
        return bool(lengths) and compression != OLD_JPEG

    def integers(self, entry: Entry | None) -> list[int]:
        if entry is None:
            return []
        kind, count, value = entry
        return list(struct.unpack(f"{self.order}{count}{INTEGERS[kind]}", value))

    def write(self, entries: Entries, link: int) -> int:
        """Append a directory and what it names, and link to it; returns where it links to the next."""
        for tag, lengths in PARTS.items():
            if tag in entries:
                places = self.copy(self.integers(entries[tag]), self.integers(entries[lengths]))
                packed = struct.pack(f"{self.order}{len(places)}{self.letter}", *places)
                entries[tag] = (self.type, len(places), packed)
        directory = b"".join(self.packed(entries))
        struct.pack_into(self.order + self.letter, self.new, link, self.end())
        self.new += struct.pack(f"{self.order}{'Q' if self.is_big else 'H'}", len(entries)) + directory
        self.new += bytes(self.width)
        return len(self.new) - self.width

    def copy(self, places: list[int], lengths: list[int]) -> list[int]:
        """Copy strips or tiles, each once; returns where they are."""
        for part in zip(places, lengths, strict=True):
            if part not in self.copied:
                self.copied[part] = self.end()
                self.new += self.slice(*part)
        return [self.copied[part] for part in zip(places, lengths, strict=True)]

    def packed(self, entries: Entries) -> Iterator[bytes]:
        for tag, (kind, count, value) in sorted(entries.items()):
            if len(value) > self.width:
                place = self.end()
                self.new += value
                value = struct.pack(self.order + self.letter, place)
            head = struct.pack(f"{self.order}HH{self.letter}", tag, kind, count)
            yield head + value.ljust(self.width, b"\0")

    def end(self) -> int:
        """Where the next thing goes: an even place."""
        self.new += bytes(len(self.new) % 2)
        return len(self.new)
