"""Archives of every kind: what comes in, what is refused and why, and that nothing else is lost by it."""

import io
import random
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ingest import archives
from ingest.archives import Allowance, is_archive, unpacked
from ingest.image_file import RejectedFile
from ingest.labels import NO_CLAIMS, Claims
from ingest.models import UploadedFile
from ingest.receiving import IncomingFile, manifest_among, open_batch, receive_all
from tests.factories import dicom_bytes, dicomdir_bytes, png_bytes, tar_bytes, zip_bytes

pytestmark = pytest.mark.django_db

Pack = Callable[[dict[str, bytes]], bytes]
PACKS = [zip_bytes, *(partial(tar_bytes, compression=kind) for kind in ("", "gz", "bz2", "xz"))]
every_kind = pytest.mark.parametrize("pack", PACKS, ids=["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
zip_and_tar = pytest.mark.parametrize("pack", [zip_bytes, tar_bytes], ids=["zip", "tar"])


def receive(
    files: dict[str, bytes], label_source: str = "dicom", claims: Claims = NO_CLAIMS
) -> list[UploadedFile]:
    incoming = [IncomingFile(name, partial(io.BytesIO, content), claims) for name, content in files.items()]
    return list(receive_all(open_batch("ward", label_source, None), incoming, manifest_among(incoming)))


def receive_one(content: bytes, name: str = "in", **options: Any) -> list[tuple[str, str]]:
    """Paths and reason codes of what became of one archive; queued files have no reason."""
    return outcomes(receive({name: content}, **options))


def outcomes(rows: list[UploadedFile]) -> list[tuple[str, str]]:
    assert all((row.state == "queued") == (row.reason_code == "") for row in rows)
    assert all(row.reason.endswith(".") for row in rows if row.reason_code)
    return [(row.path, row.reason_code) for row in rows]


def tar_of(*members: tarfile.TarInfo) -> bytes:
    """A tar of bare headers, and one good picture at the end."""
    buffer, picture = io.BytesIO(), png_bytes()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            archive.addfile(member)
        good = tarfile.TarInfo("good.png")
        good.size = len(picture)
        archive.addfile(good, io.BytesIO(picture))
    return buffer.getvalue()


def tar_member(kind: bytes, name: str = "member", **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@every_kind
@pytest.mark.parametrize("name", ["upload", "wrong.zip", "wrong.tar", "1.2.840.10008"])
def test_members_become_files_whatever_the_archive_is_called(pack: Pack, name: str) -> None:
    members = {"a.dcm": dicom_bytes(), "x/b.png": png_bytes(), "x/.hidden": b"x", "__MACOSX/x/b.png": b"x"}
    rows = receive({name: pack(members)})
    assert outcomes(rows) == [("a.dcm", ""), ("x/b.png", "")]
    assert [row.size_bytes for row in rows] == [len(dicom_bytes()), len(png_bytes())]


@every_kind
@pytest.mark.parametrize("top", ["", "set/"])
def test_manifest_labels_the_members(pack: Pack, top: str) -> None:
    manifest = b"path,organ,split\nx/a.png,Heart,test\ngone.png,liver,\n"
    rows = receive({"in": pack({f"{top}x/a.png": png_bytes(), f"{top}manifest.csv": manifest})}, "manifest")
    assert outcomes(rows) == [(f"{top}x/a.png", ""), (f"{top}gone.png", "missing_file")]
    assert (rows[0].organ_name, rows[0].split) == ("heart", "test")


@zip_and_tar
def test_manifest_that_should_be_there(pack: Pack) -> None:
    assert receive_one(pack({"a.png": png_bytes()}), label_source="manifest") == [("in", "bad_manifest")]


@zip_and_tar
def test_unusable_manifest(pack: Pack) -> None:
    content = pack({"manifest.csv": b"path\na.png\n", "a.png": png_bytes()})
    rows = receive({"in": content, "b.png": png_bytes(seed=1)})
    assert outcomes(rows) == [("in", "bad_manifest"), ("b.png", "")]
    assert rows[0].reason == "The manifest lacks the column organ. Its columns are: path."


def test_manifest_too_large_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.receiving.MANIFEST_BYTES", 2**20)
    content = zip_bytes({"manifest.csv": b"path,organ\n" + bytes(2**20), "a.png": png_bytes()})
    assert receive_one(content) == [("in", "bad_manifest")]


def test_labels_said_of_an_archive_are_those_of_every_member() -> None:
    inner = tar_bytes({"a.png": png_bytes(seed=1)})
    rows = receive({"in.zip": zip_bytes({"i.tar": inner, "b.png": png_bytes()})}, claims=Claims("Heart"))
    assert [(row.path, row.organ_name) for row in rows] == [("i.tar/a.png", "heart"), ("b.png", "heart")]


def test_paths_of_archives_in_archives() -> None:
    innermost = tar_bytes({"deep/c.png": png_bytes(seed=3)}, "xz")
    inner = tar_bytes({"b.png": png_bytes(seed=2), "most.txz": innermost}, "gz")
    outer = zip_bytes({"a.png": png_bytes(seed=1), "x/inner.tgz": inner})
    nested = ["x/inner.tgz/b.png", "x/inner.tgz/most.txz/deep/c.png"]
    assert receive_one(outer, "outer.zip") == [(path, "") for path in ["a.png", *nested]]
    rows = receive({"outer.zip": outer, "d.png": png_bytes(seed=4)})
    assert [row.path for row in rows] == [f"outer.zip/{path}" for path in ["a.png", *nested]] + ["d.png"]


def test_manifest_of_the_outer_archive_reaches_into_the_inner_unless_that_has_its_own() -> None:
    own = b"path,organ\na.png,liver\n"
    outer = tar_bytes(
        {
            "manifest.csv": b"path,organ\none.zip/a.png,heart\ntwo.zip/set/a.png,heart\n",
            "one.zip": zip_bytes({"a.png": png_bytes(seed=1)}),
            "two.zip": zip_bytes({"set/a.png": png_bytes(seed=2), "set/manifest.csv": own}),
        }
    )
    rows = receive({"in.tar": outer}, "manifest")
    assert [(row.path, row.organ_name, row.reason_code) for row in rows] == [
        ("one.zip/a.png", "heart", ""),
        ("two.zip/set/a.png", "liver", ""),
    ]


def test_archives_are_no_folders_to_take_labels_from() -> None:
    inner = zip_bytes({"a.png": png_bytes(seed=1), "liver/b.png": png_bytes(seed=2)})
    rows = receive({"in.zip": zip_bytes({"heart/study.zip": inner, "study.zip": inner})}, "folder")
    assert [row.organ_name for row in rows] == ["heart", "liver", "", "liver"]


def test_archive_too_deep_is_refused_and_nothing_else() -> None:
    content = zip_bytes({"0.png": png_bytes(seed=0)})
    for level in range(1, 4):
        content = zip_bytes({f"{level}.zip": content, f"{level}.png": png_bytes(seed=level)})
    assert receive_one(content) == [
        ("3.zip/2.zip/1.zip", "too_deep"),
        ("3.zip/2.zip/1.png", ""),
        ("3.zip/2.png", ""),
        ("3.png", ""),
    ]


def test_refused_archive_inside_is_one_row_and_the_others_come_in() -> None:
    encrypted = encrypted_zip()
    inside = {"a.png": png_bytes(seed=1), "cut.tar": tar_bytes({"x.png": png_bytes()})[:700]}
    inside |= {"locked.zip": encrypted, "none.zip": zip_bytes({}), "good.tar": tar_bytes({"b": png_bytes()})}
    assert receive_one(zip_bytes(inside)) == [
        ("a.png", ""),
        ("cut.tar", "bad_archive"),
        ("locked.zip", "encrypted_zip"),
        ("none.zip", "empty_archive"),
        ("good.tar/b", ""),
    ]


@pytest.mark.parametrize(
    "mark", ["[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF", "Index/Document.iwa"]
)
def test_documents_are_zips_and_stay_files(mark: str) -> None:
    content = zip_bytes({"word/document.xml": b"<x/>", mark: b"x", "media/1.png": png_bytes()})
    assert receive_one(content, "report.docx") == [("report.docx", "")]
    inside = tar_bytes({"report.docx": content, "a.png": png_bytes()})
    assert receive_one(inside) == [("report.docx", ""), ("a.png", "")]
    assert len(receive_one(content, "media.zip")) == 3


@pytest.mark.parametrize("content", [dicom_bytes(), png_bytes(), b"", bytes(2048), b"\x1f\x8b", b"BZh9 x"])
def test_what_is_no_archive_is_received_as_it_is(content: bytes) -> None:
    assert not is_archive("a", io.BytesIO(content))
    (row,) = receive({"a": content})
    assert (row.path, row.size_bytes) == ("a", len(content))


def test_images_named_like_archives_are_images() -> None:
    assert receive_one(dicom_bytes(), "a.zip") == [("a.zip", "")]
    assert receive_one(png_bytes(), "a.tar") == [("a.tar", "")]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "A.TGZ", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_what_is_only_named_like_an_archive_is_told(name: str) -> None:
    assert receive_one(b"no archive at all", name) == [(name, "bad_archive")]
    assert receive_one(b"", name) == [(name, "empty_file")]


@every_kind
def test_archive_that_is_cut_off_is_refused_whole(pack: Pack) -> None:
    content = pack({f"{seed}.png": png_bytes(seed=seed) for seed in range(4)})
    rows = receive({"in.zip": content[: len(content) // 2], "good.png": png_bytes(seed=9)})
    assert outcomes(rows) == [("in.zip", "bad_archive"), ("good.png", "")]


def test_tar_with_a_broken_header_in_its_midst_is_told() -> None:
    content = bytearray(tar_of(tar_member(tarfile.DIRTYPE, "folder")))
    content[512 + 20] ^= 1
    assert receive_one(bytes(content)) == [("in", "bad_archive")]


@every_kind
def test_archive_without_files(pack: Pack) -> None:
    name = "in.tar"  # a tar without files is nothing but zeros
    assert receive_one(pack({}), name) == [(name, "empty_archive")]
    assert receive_one(pack({".DS_Store": b"x"}), name) == [(name, "empty_archive")]


def encrypted_zip() -> bytes:
    content = bytearray(zip_bytes({"a.png": png_bytes()}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def test_encrypted_zip() -> None:
    (row,) = receive({"in.zip": encrypted_zip()})
    assert (row.reason_code, row.reason) == (
        "encrypted_zip",
        "The zip is encrypted. Send it without a password.",
    )


def test_damaged_member_does_not_take_the_others_along() -> None:
    content = bytearray(zip_bytes({"bad.png": png_bytes(seed=1), "good.png": png_bytes(seed=2)}))
    content[60:90] = bytes(30)
    assert receive_one(bytes(content)) == [("bad.png", "damaged"), ("good.png", "")]


def test_member_compressed_in_an_unknown_way() -> None:
    content = bytearray(zip_bytes({"new.png": png_bytes(seed=1), "good.png": png_bytes(seed=2)}))
    deflate64 = 9
    content[8] = content[content.index(b"PK\x01\x02") + 10] = deflate64
    assert receive_one(bytes(content)) == [("new.png", "unsupported_compression"), ("good.png", "")]


@every_kind
def test_too_large_when_unpacked(pack: Pack, settings: Any, media_root: Path) -> None:
    settings.MAX_UPLOAD_BYTES = 2**20
    content = pack({"a.png": png_bytes(), **{str(i): bytes(2**18) for i in range(5)}})
    assert receive_one(content) == [("in", "archive_too_large")]
    assert not media_root.exists()


def test_bomb_is_told_by_its_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "BYTES_ALWAYS_TAKEN", 2**20)
    for pack in (zip_bytes, partial(tar_bytes, compression="gz"), partial(tar_bytes, compression="bz2")):
        assert receive_one(pack({"zeros": bytes(2 * 2**20)})) == [("in", "archive_bomb")]
        assert receive_one(pack({"zeros": bytes(2**19)})) == [("zeros", "")]
    assert receive_one(tar_bytes({"zeros": bytes(2 * 2**20)})) == [("zeros", "")]


def test_bomb_inside_is_refused_and_its_neighbours_come_in(settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 2**20
    bomb = zip_bytes({"zeros": bytes(3 * 2**19)})
    small = zip_bytes({"half": bytes(2**19)})
    content = tar_bytes({"bomb.zip": bomb, "small.zip": small, "a.png": png_bytes()})
    assert receive_one(content) == [
        ("bomb.zip", "archive_too_large"),
        ("small.zip/half", ""),
        ("a.png", ""),
    ]


def test_archives_inside_are_limited_together(settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 2**20
    content = zip_bytes({f"{i}.zip": zip_bytes({str(i): bytes(2**19 - 999)}) for i in range(3)})
    assert receive_one(content) == [("0.zip/0", ""), ("1.zip/1", ""), ("2.zip", "archive_too_large")]


def test_files_in_an_archive_inside_are_counted_once(settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 2**20
    noise = random.Random(1).randbytes(3 * 2**18)
    assert receive_one(zip_bytes({"i.tgz": tar_bytes({"a": noise}, "gz")})) == [("i.tgz/a", "")]


def test_many_bombs_do_not_add_up(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.MAX_UPLOAD_BYTES = 2**20
    bomb = zip_bytes({str(i): bytes(2**18) for i in range(8)})
    content = zip_bytes({f"{i}.zip": bomb for i in range(40)})
    read = 0
    take_bytes = Allowance.take_bytes

    def count(allowance: Allowance, size_bytes: int) -> None:
        nonlocal read
        read += size_bytes
        take_bytes(allowance, size_bytes)

    monkeypatch.setattr(Allowance, "take_bytes", count)
    assert {code for _path, code in receive_one(content)} == {"archive_too_large"}
    assert read < (archives.HANDLED_TIMES + 40 / 4) * 2**20  # of each a member at least


@zip_and_tar
def test_too_many_members_over_all_archives(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 4)
    five = pack({f"{i}.png": png_bytes(seed=i) for i in range(5)})
    two = pack({f"{i}.png": png_bytes(seed=i) for i in range(2)})
    assert receive_one(five) == [("in", "too_many_members")]
    nested = {"five": five, "two": two, "again": two}
    assert receive_one(pack({"five": five, "one": two})) == [
        ("five", "too_many_members"),
        ("one/0.png", ""),
        ("one/1.png", ""),
    ]
    assert receive_one(pack(nested))[-1] == ("again", "too_many_members")


def test_links_and_devices_are_rows_of_their_own(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png_bytes(seed=5))
    content = tar_of(
        tar_member(tarfile.SYMTYPE, "soft.png", linkname=str(secret)),
        tar_member(tarfile.LNKTYPE, "hard.png", linkname="good.png"),
        tar_member(tarfile.FIFOTYPE, "pipe"),
        tar_member(tarfile.CHRTYPE, "zero", devmajor=1, devminor=5),
        tar_member(tarfile.BLKTYPE, "disk", devmajor=8),
        tar_member(b"Z", "unheard-of"),
        tar_member(tarfile.DIRTYPE, "folder"),
    )
    assert receive_one(content) == [
        ("soft.png", "link"),
        ("hard.png", "link"),
        *((name, "special") for name in ("pipe", "zero", "disk", "unheard-of")),
        ("good.png", ""),
    ]


def test_link_in_a_zip() -> None:
    info = zipfile.ZipInfo("soft.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
        archive.writestr("a.png", png_bytes())
    assert receive_one(buffer.getvalue()) == [("soft.png", "link"), ("a.png", "")]


@zip_and_tar
def test_paths_lead_nowhere_else(pack: Pack) -> None:
    names = ["../../evil.png", "/etc/evil.png", "C:\\evil.png", "x/../../evil.png", "x\\..\\evil.png"]
    rows = receive({"in": pack({name: png_bytes(seed=i) for i, name in enumerate(names)})})
    assert [row.path for row in rows] == ["evil.png", "etc/evil.png", "evil.png", "x/evil.png", "x/evil.png"]
    nested = zip_bytes({"i.tar": pack({"../../evil.png": png_bytes()})})
    assert receive_one(nested) == [("i.tar/evil.png", "")]


def test_names_in_other_scripts() -> None:
    for pack in PACKS:
        assert receive_one(pack({"Schädel/頭部.png": png_bytes()})) == [("Schädel/頭部.png", "")]


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "shift-jis", "latin-1"])
def test_names_in_an_encoding_that_is_not_told(encoding: str) -> None:
    name = "é.png" if encoding == "latin-1" else "頭部.png"
    for pack in (zip_bytes, tar_bytes):
        raw = name.encode(encoding)
        content = pack({"N" * len(raw): png_bytes()}).replace(b"N" * len(raw), raw)
        if pack is tar_bytes:
            header = bytearray(content[:512])
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            content = bytes(header) + content[512:]
        (row,) = receive({"in": content})
        assert row.reason_code == ""
        assert row.path.endswith(".png")
        assert (row.path == name) == (encoding == "utf-8")


@every_kind
def test_studies_and_dicomdir_in_one_archive(pack: Pack) -> None:
    members = {"DICOMDIR": dicomdir_bytes(), "ST1/IM1": dicom_bytes(seed=1), "ST2/IM1": dicom_bytes(seed=2)}
    assert receive_one(pack(members)) == [("ST1/IM1", ""), ("ST2/IM1", "")]


def test_dicomdir_sent_alone_is_told() -> None:
    (row,) = receive({"DICOMDIR": dicomdir_bytes()})
    assert row.path == "DICOMDIR"


def test_folder_or_image_called_dicomdir_comes_in() -> None:
    content = zip_bytes({"DICOMDIR/IM1": dicom_bytes(seed=1), "DICOMDIR/DICOMDIR": dicom_bytes(seed=2)})
    assert receive_one(content) == [("DICOMDIR/IM1", ""), ("DICOMDIR/DICOMDIR", "")]


def test_headers_of_absurd_size_are_not_read() -> None:
    headers = tarfile.TarInfo("a.png")
    headers.pax_headers = {"comment": "x" * 12 * 2**20}
    long_name = tarfile.TarInfo("n" * 12 * 2**20)
    for info, kind in ((headers, tarfile.PAX_FORMAT), (long_name, tarfile.GNU_FORMAT)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
            archive.addfile(info)
        assert receive_one(buffer.getvalue()) == [("in", "too_many_members")]


def test_tar_that_leads_back_ends() -> None:
    content = bytearray(tar_of(tar_member(tarfile.DIRTYPE, "folder")))
    header = content[512:1024]
    header[124:136] = (-512).to_bytes(12, signed=True)  # its size: the next header is itself
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[512:1024] = header
    assert receive_one(bytes(content)) == [("in", "bad_archive")]


def test_memory_stays_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SPOOL_BYTES", 2**20)
    files = {f"{i}.bin": random.Random(i).randbytes(2**21) for i in range(8)}
    for content in (zip_bytes({"i.tgz": tar_bytes(files, "gz")}), tar_bytes({"i.zip": zip_bytes(files)})):
        tracemalloc.start()
        assert len(receive_one(content)) == 8
        _now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 12 * 2**20  # of 16


def test_every_member_of_any_damaged_archive_is_read_or_refused() -> None:
    """Bytes changed anywhere: the archive is refused, or its members can each be read or refused."""
    rng = random.Random(4)
    members = {"a.txt": b"a" * 700, "manifest.csv": b"path,organ\n", "b/c.txt": bytes(range(256)) * 3}
    for content in [*(pack(members) for pack in PACKS), zip_bytes({"i.tar": tar_bytes(members)})]:
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(rng.randint(1, 6)):
                damaged[rng.randrange(len(damaged))] = rng.choice([0, 255, rng.randrange(256)])
            file = io.BytesIO(damaged)
            try:
                is_archive("in", file)
                with unpacked(file, Allowance(len(damaged))) as inside:
                    for member in inside:
                        for _chunk in archives.readable_chunks(member):
                            pass
            except RejectedFile:
                continue
