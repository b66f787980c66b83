"""A server of this machine that speaks as much of S3 as is read from buckets, and can misbehave."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "ward"
LISTING = "the listing"


@dataclass
class BrokenStorage:
    """What its one bucket has, what it is to do wrong next, and what it was asked."""

    address: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by key, or LISTING
    asked: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)  # ends what hangs

    def listing(self, prefix: str) -> bytes:
        contents = "".join(
            f'<Contents><Key>{key}</Key><Size>{len(content)}</Size><ETag>"{etag(content)}"</ETag></Contents>'
            for key, content in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()


def etag(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    storage: BrokenStorage
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        key = unquote(url.path).removeprefix(f"/{BUCKET}").removeprefix("/") or LISTING
        self.storage.asked.append(key)
        faults = self.storage.faults[key]
        fault = faults.pop(0) if faults else ""
        self.close_connection = True
        if fault == "chunked":
            self.answer(200, self.storage.objects[key], is_chunked=True)
        elif fault == "hang":
            self.storage.over.wait(30)
        elif fault == "hang up":
            pass
        elif fault == "html":
            self.answer(200, b"<html><body>Welcome<br></body></html>")
        elif fault.isdecimal():
            self.answer(int(fault), b"")
        elif fault not in ("", "cut off", "stall"):  # a code of S3's
            self.answer(403, f"<Error><Code>{fault}</Code><Message>of {key}</Message></Error>".encode())
        elif key == LISTING:
            self.answer(200, self.storage.listing(parse_qs(url.query).get("prefix", [""])[0]))
        else:
            content = self.storage.objects[key]
            self.answer(200, content, cut_at=len(content) // 2 if fault else None)
            if fault == "stall":
                self.storage.over.wait(30)

    def answer(self, status: int, body: bytes, cut_at: int | None = None, is_chunked: bool = False) -> None:
        self.send_response(status)
        self.send_header("ETag", f'"{etag(body)}"')
        self.send_header("Connection", "close")
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut_at])
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def running(storage: BrokenStorage) -> Iterator[BrokenStorage]:
    handler = type("HandlerOfOne", (Handler,), {"storage": storage})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    storage.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield storage
    finally:
        storage.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
