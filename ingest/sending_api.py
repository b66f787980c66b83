"""REST: files sent in parts, by the tus protocol 1.0.0, into a batch that announced them.

As in the browser (ingest/sending_views.py), what is being sent belongs to who made the batch.
"""

from typing import Any

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ingest.models import PendingFile, PendingKind, UploadBatch
from ingest.sending_views import (
    PART,
    VERSION,
    create_file,
    go_on,
    lengths_of,
    possibilities,
    state_of,
    wrong_version,
)
from ingest.serializers import UploadsSerializer

ADDRESS = "upload"  # of one file, by the name of its pattern


def header(name: str, description: str, kind: Any = OpenApiTypes.STR) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.HEADER, required=True, description=description)


RESUMABLE = header("Tus-Resumable", VERSION)


class MaySend(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.user.has_perm("ingest.add_uploadbatch")


class SendingView(APIView):
    permission_classes = [IsAuthenticated, MaySend]

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """With the protocol's own header; what is refused is told as JSON, as everywhere in the API."""
        if response.headers.get("Content-Type", "").startswith("text/plain"):
            detail = {"detail": response.content.decode()}
            more = {name: response.headers[name] for name in ("Tus-Version",) if name in response.headers}
            response = Response(detail, status=response.status_code, headers=more)
        answer = super().finalize_response(request, response, *args, **kwargs)
        answer.headers["Tus-Resumable"] = VERSION
        return answer


class UploadsView(SendingView):
    def batch(self, request: Request, pk: int) -> UploadBatch:
        return get_object_or_404(UploadBatch, pk=pk, created_by=request.user)

    @extend_schema(responses=UploadsSerializer)
    def get(self, request: Request, pk: int) -> HttpResponse:
        """What has come of a batch that is being sent: how to go on with each of its files."""
        return Response(state_of(self.batch(request, pk), ADDRESS))

    @extend_schema(
        parameters=[
            RESUMABLE,
            header("Upload-Length", "Bytes of the whole file.", OpenApiTypes.INT),
            header("Upload-Metadata", "path (or filename), and maybe key and modified; values in Base64."),
        ],
        request={PART: OpenApiTypes.BINARY},
        responses={201: None},
    )
    def post(self, request: Request, pk: int) -> HttpResponse:
        """Begin one more file (tus: creation, maybe with its first bytes); where it is, is in Location."""
        batch = self.batch(request, pk)
        return wrong_version(request._request) or create_file(request._request, batch, ADDRESS)

    @extend_schema(exclude=True)
    def options(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        return possibilities()


class UploadView(SendingView):
    def file(self, request: Request, pk: int) -> PendingFile:
        mine = PendingFile.objects.filter(kind=PendingKind.SENT, batch__created_by=request.user)  # type: ignore[misc]
        return get_object_or_404(mine, pk=pk)

    @extend_schema(parameters=[RESUMABLE], responses={200: None})
    def head(self, request: Request, pk: int) -> HttpResponse:
        """How many bytes have come: Upload-Offset."""
        file = self.file(request, pk)
        return wrong_version(request._request) or lengths_of(file)

    @extend_schema(
        parameters=[RESUMABLE, header("Upload-Offset", "Where the part begins.", OpenApiTypes.INT)],
        request={PART: OpenApiTypes.BINARY},
        responses={204: None},
    )
    def patch(self, request: Request, pk: int) -> HttpResponse:
        """The next bytes, of any number."""
        file = self.file(request, pk)
        return wrong_version(request._request) or go_on(request._request, file)
