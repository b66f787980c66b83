"""What the import page's script talks to: files sent in parts, by the tus protocol 1.0.0.

An import belongs to who began it: to others its uploads are not there.
"""

from base64 import b64decode
from collections.abc import Callable
from functools import wraps
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from ingest.archives import CHUNK_BYTES, SPOOL_BYTES
from ingest.bell import ring
from ingest.forms import SendingForm
from ingest.models import PendingFile, PendingKind, UploadBatch
from ingest.pending import receive, refuse_too_large
from ingest.resumable import NotExpected, WrongOffset, add_part, expect_sent_file, store_manifest
from ingest.views import tell_unused_columns

VERSION = "1.0.0"
RECEIVED_AT_ONCE = 64 * 2**20  # larger files, archives maybe, are left to a worker
PART = "application/offset+octet-stream"

View = Callable[..., HttpResponse]


def for_senders(view: View) -> View:
    """Scripts follow no way to the sign-in page: who is not signed in is told so."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return refusal("You are signed out.", 401)
        if not request.user.has_perm("ingest.add_uploadbatch"):
            raise PermissionDenied
        response = view(request, *args, **kwargs)
        response.headers["Tus-Resumable"] = VERSION
        return response

    return guarded


def refusal(sentence: str, status: int, **headers: Any) -> HttpResponse:
    return HttpResponse(sentence, status=status, content_type="text/plain; charset=utf-8", headers=headers)


@require_POST
@for_senders
def begin(request: HttpRequest) -> HttpResponse:
    """Open an import of announced files; 422 with the reasons where it cannot be."""
    form = SendingForm(request.POST, request.FILES)
    if not form.is_valid():
        return JsonResponse(
            {"errors": [error for each in form.errors.values() for error in each]}, status=422
        )
    batch = form.batch(request.user, files_to_come=form.cleaned_data["announced"])
    if manifest := form.cleaned_data["manifest"]:
        store_manifest(batch, form.cleaned_data["manifest_path"], manifest, manifest.size)
        tell_unused_columns(request, form.cleaned_data["read_manifest"])
    addresses = {name: reverse(f"ingest:{name}", args=[batch.pk]) for name in ("batch_detail", "sending")}
    return JsonResponse(addresses, status=201)


@require_http_methods(["GET", "POST", "OPTIONS"])
@for_senders
def sending(request: HttpRequest, pk: int) -> HttpResponse:
    """GET: what has come of an import. POST: one more file of it (tus: creation, maybe with its bytes)."""
    batch = get_object_or_404(UploadBatch, pk=pk, created_by=request.user)  # type: ignore[misc]
    if request.method == "OPTIONS":
        return possibilities()
    if request.method == "GET":
        return JsonResponse(state_of(batch))
    if wrong := wrong_version(request):
        return wrong
    return create_file(request, batch)


def possibilities() -> HttpResponse:
    extensions = "creation,creation-with-upload"
    headers = {
        "Tus-Version": VERSION,
        "Tus-Extension": extensions,
        "Tus-Max-Size": settings.MAX_UPLOAD_BYTES,
    }
    return HttpResponse(status=204, headers=headers)


def state_of(batch: UploadBatch, address: str = "ingest:sent_file") -> dict[str, Any]:
    """address: the name of the pattern of one file."""
    files = batch.pending_files.filter(kind=PendingKind.SENT).values_list(
        "pk", "path", "size_bytes", "modified", "received_bytes", "received_at"
    )
    return {
        "files_to_come": batch.files_to_come,
        "files_to_send": batch.files_to_come - batch.pending_files.complete().count(),
        "files": [
            {
                "url": reverse(address, args=[number]),
                "path": path,
                "size": size,
                "modified": modified,
                "offset": offset,
                "is_sent": received_at is not None or offset == size,
            }
            for number, path, size, modified, offset, received_at in files
        ],
    }


def wrong_version(request: HttpRequest) -> HttpResponse | None:
    if request.headers.get("Tus-Resumable") == VERSION:
        return None
    return refusal("Another version of the protocol is needed.", 412, **{"Tus-Version": VERSION})


def create_file(request: HttpRequest, batch: UploadBatch, address: str = "ingest:sent_file") -> HttpResponse:
    try:
        size_bytes = natural_number(request.headers.get("Upload-Length", ""))
        said = metadata_of(request.headers.get("Upload-Metadata", ""))
        modified = natural_number(said.get("modified", "0"))
    except ValueError:
        return refusal("Upload-Length or Upload-Metadata cannot be read.", 400)
    path = said.get("path") or said.get("filename")  # the latter is what tus' own clients send
    if not path:
        return refusal("The file needs a path.", 400)
    try:
        file = expect_sent_file(batch, path, size_bytes, modified, said.get("key", "")[:64])
    except NotExpected as error:
        return refusal(str(error), 409)
    if size_bytes > settings.MAX_UPLOAD_BYTES:
        if file.received_at is None:
            refuse_too_large(file)
        return refusal("The file is larger than the limit.", 413)
    headers = {
        "Location": reverse(address, args=[file.pk]),
        "Upload-Offset": file.received_bytes,
    }
    if file.received_at is None and file.received_bytes == 0:
        response = take_part(request, file, 0)
        if response.status_code != 204:
            return response
        headers["Upload-Offset"] = response.headers["Upload-Offset"]
    return HttpResponse(status=201, headers=headers)


@require_http_methods(["HEAD", "PATCH"])
@for_senders
def sent_file(request: HttpRequest, pk: int) -> HttpResponse:
    """HEAD: how many bytes have come. PATCH: the next ones."""
    mine = PendingFile.objects.filter(kind=PendingKind.SENT, batch__created_by=request.user)  # type: ignore[misc]
    file = get_object_or_404(mine, pk=pk)
    if wrong := wrong_version(request):
        return wrong
    return lengths_of(file) if request.method == "HEAD" else go_on(request, file)


def lengths_of(file: PendingFile) -> HttpResponse:
    lengths = {"Upload-Offset": file.received_bytes, "Upload-Length": file.size_bytes}
    return HttpResponse(headers={**lengths, "Cache-Control": "no-store"})


def go_on(request: HttpRequest, file: PendingFile) -> HttpResponse:
    if request.content_type != PART:
        return refusal(f"The content type has to be {PART}.", 415)
    try:
        offset = natural_number(request.headers.get("Upload-Offset", ""))
    except ValueError:
        return refusal("Upload-Offset cannot be read.", 400)
    return take_part(request, file, offset)


def take_part(request: HttpRequest, file: PendingFile, offset: int) -> HttpResponse:
    """Store what the request brings, as far as it came: a broken connection loses nothing."""
    if offset != file.received_bytes:
        return refusal("The part does not begin where the last one ended.", 409)
    room = file.size_bytes - offset
    if int(request.META.get("CONTENT_LENGTH") or 0) > room:
        return refusal("These are more bytes than the file has.", 413)
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        size_bytes = copy_body(request, spool, room)
        try:
            file = add_part(file.pk, offset, spool, size_bytes)
        except WrongOffset:
            return refusal("The part does not begin where the last one ended.", 409)
    if file.is_complete:
        if file.size_bytes <= RECEIVED_AT_ONCE:
            receive(file.pk)
        ring("ingest.import_queued_files")
    return HttpResponse(status=204, headers={"Upload-Offset": str(file.received_bytes)})


def copy_body(request: HttpRequest, spool: IO[bytes], most: int) -> int:
    size_bytes = 0
    try:
        while size_bytes < most and (chunk := request.read(min(CHUNK_BYTES, most - size_bytes))):
            size_bytes += spool.write(chunk)
    except UnreadablePostError:  # the connection broke
        pass
    return size_bytes


def natural_number(text: str) -> int:
    """Raises ValueError for anything but up to 18 digits."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ValueError(text)
    return int(text)


def metadata_of(header: str) -> dict[str, str]:
    """tus: pairs of a key and a value in Base64, with commas between. Raises ValueError."""
    pairs = (pair.strip().partition(" ") for pair in header.split(",") if pair.strip())
    return {key: b64decode(value, validate=True).decode().replace("\0", "") for key, _, value in pairs}
