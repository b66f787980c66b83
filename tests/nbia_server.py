"""A server of this machine that speaks as much of NBIA's REST interface as is used, and can misbehave."""

import hashlib
import json
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydicom.uid import generate_uid

from tests.factories import dicom_bytes, make_pixels


@dataclass
class Nbia:
    """What the archive has, what it is to do wrong next, and what it was asked."""

    address: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # of each series, by name in the zip
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by series or endpoint
    asked: list[str] = field(default_factory=list)  # series that were asked for
    over: threading.Event = field(default_factory=threading.Event)  # ends what hangs

    def add_series(self, collection: str, patient: str, images: int = 3, **attributes: Any) -> str:
        """A series of a patient; `attributes` of its row, and of its files where DICOM knows them."""
        number = len(self.rows)
        uid = str(generate_uid(entropy_srcs=[collection, str(number)]))
        of_row = {"Modality": "MR", "BodyPartExamined": "BRAIN", "SeriesDescription": "T1", **attributes}
        image_type = of_row.pop("ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"])
        self.files[uid] = {
            # As in the archive, names follow no order that means anything.
            f"{images - index:08d}.dcm": dicom_bytes(
                make_pixels(1000 * number + index),
                seed=1000 * number + index,
                SeriesInstanceUID=uid,
                StudyInstanceUID=generate_uid(entropy_srcs=["study", patient]),
                PatientID=patient,
                InstanceNumber=index + 1,
                ImageType=image_type,
                Modality=of_row["Modality"],
            )
            for index in range(images)
        }
        row = {"SeriesInstanceUID": uid, "Collection": collection, "PatientID": patient, "ImageCount": images}
        size_bytes = sum(map(len, self.files[uid].values()))
        licence = {"LicenseName": "CC BY 3.0", "DataDescriptionURI": f"https://doi.org/10.1/{collection}"}
        self.rows.append({**row, **licence, "FileSize": size_bytes, **of_row})
        return uid

    def zip_of(self, uid: str, changed: bool = False) -> bytes:
        buffer = BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in self.files[uid].items():
                archive.writestr(name, content[:-1] + b"\x01" if changed else content)
            sums = {name: hashlib.md5(content).hexdigest() for name, content in self.files[uid].items()}
            lines = ["Filename,MD5Hash", *(f"{name},{md5}" for name, md5 in sums.items())]
            archive.writestr("md5hashes.csv", "\n".join(lines) + "\n")
        return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    nbia: Nbia

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        endpoint = url.path.rpartition("/")[2]
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        uid = asked.get("SeriesInstanceUID", "")
        if uid:
            self.nbia.asked.append(uid)
        faults = self.nbia.faults[uid or endpoint]
        fault = faults.pop(0) if faults else ""
        if fault.isdigit():
            self.answer(b"Something went wrong.", int(fault))
        elif endpoint == "getSeries":
            rows = [row for row in self.nbia.rows if row["Collection"] == asked["Collection"]]
            self.answer(b"<html>" if fault == "html" else json.dumps(rows).encode() if rows else b"")
        elif endpoint == "getImageWithMD5Hash" and uid in self.nbia.files:
            self.send_series(uid, fault)
        else:
            self.answer(b"Unknown.", 404)

    def send_series(self, uid: str, fault: str) -> None:
        content = self.nbia.zip_of(uid, changed=fault == "changed")
        if fault == "html":
            content = b"<html>Down for maintenance</html>"
        elif fault == "cut":  # the archive's own trouble: it ends the zip early, with the status 200
            content = content[: len(content) // 2]
        if fault in ("broken", "slow"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            if fault == "slow":
                self.nbia.over.wait(30)
        else:
            self.answer(content)

    def answer(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running() -> Iterator[Nbia]:
    nbia = Nbia()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThis", (Handler,), {"nbia": nbia}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    nbia.address = f"http://127.0.0.1:{server.server_port}/nbia-api/services/v4"
    try:
        yield nbia
    finally:
        nbia.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
