"""REST: queries and their ranked results."""

from typing import Any

from django.conf import settings
from django.http import FileResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.helpers import forced_singular_serializer
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from ingest.models import Image
from ml.api import MayDoAction
from search import answering
from search.activity import current_activity
from search.models import Query, QueryStatus
from search.previews import preview_response
from search.retrieval import ResultPage, search, server_timing
from search.serializers import (
    ImageSerializer,
    NewQuerySerializer,
    QuerySerializer,
    ResultPageSerializer,
    SearchSerializer,
    StatusSerializer,
    WaitSerializer,
)


class NotAnsweredYet(APIException):
    status_code = 409
    default_detail = "The query has not been answered yet. Ask again in a moment."
    default_code = "waiting"


class CannotBeAnswered(APIException):
    status_code = 422
    default_code = "failed"


class QueryViewSet(viewsets.GenericViewSet[Query]):
    """Searches by image: send one, read what the network sees in it, page through what is like it."""

    queryset = Query.objects.select_related("model_version")
    serializer_class = QuerySerializer
    parser_classes = [MultiPartParser, FormParser, JSONParser]
    permission_classes = [MayDoAction]
    permissions_needed = {
        "create": "search.add_query",
        "retrieve": "search.view_query",
        "results": "search.view_query",
    }

    @extend_schema(request=NewQuerySerializer, responses={201: QuerySerializer})
    def create(self, request: Request) -> Response:
        """Search with a file (DICOM, PNG, JPEG, TIFF, BMP) or with an image of the collection."""
        asked = NewQuerySerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        if image := asked.validated_data.get("image_id"):
            query = answering.ask_with_image(image, request.user)
        else:
            file = asked.validated_data["file"]
            if file.size > settings.MAX_UPLOAD_BYTES:
                limit = settings.MAX_UPLOAD_BYTES // 2**20
                raise ValidationError(
                    {"file": [f"This file is larger than {limit} MB, the most that is taken."]}
                )
            query = answering.ask_with_file(file.read(), request.user)
        data = self.get_serializer(query).data
        return Response(data, status=201, headers={"Location": data["url"]})

    @extend_schema(parameters=[WaitSerializer])
    def retrieve(self, request: Request, pk: str) -> Response:
        """What the network sees in the query image."""
        wanted = WaitSerializer(data=request.query_params)
        wanted.is_valid(raise_exception=True)
        query = self.get_object()
        query.wait(wanted.validated_data["wait"])
        return Response(self.get_serializer(query).data)

    @extend_schema(
        parameters=[SearchSerializer],
        responses={
            200: ResultPageSerializer,
            409: OpenApiResponse(description="Not answered yet."),
            422: OpenApiResponse(description="The query failed; `detail` says why."),
        },
    )
    @action(detail=True, pagination_class=None)
    def results(self, request: Request, pk: str) -> Response:
        """The ranked images. A chosen organ takes the place of the predicted one."""
        query = get_object_or_404(self.get_queryset(), pk=pk)
        asked = SearchSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        if query.status == QueryStatus.WAITING:
            raise NotAnsweredYet
        if query.status == QueryStatus.FAILED:
            raise CannotBeAnswered(query.error)
        wanted = asked.validated_data
        found = search(query, asked.options(), page=wanted["page"], page_size=wanted["page_size"])
        page = self.result_page(request, query, found)
        return Response(page, headers={"Server-Timing": server_timing(query, found)})

    def result_page(self, request: Request, query: Query, found: ResultPage) -> Any:
        page = {
            "count": found.total,
            "page": found.page,
            "pages": found.pages,
            "query": query,
            "facets": {"organ": dict(found.organ_facets), "modality": dict(found.modality_facets)},
            "results": found.hits,
        }
        show_files = request.user.has_perm("ingest.view_uploadedfile")
        return ResultPageSerializer(page, context={"show_files": show_files}).data


class StatusViewSet(viewsets.ViewSet):
    """What the collection holds, and what the search runs on."""

    permission_classes = [MayDoAction]
    permissions_needed = {"list": "search.view_query"}

    @extend_schema(responses=forced_singular_serializer(StatusSerializer), operation_id="status_retrieve")
    def list(self, request: Request) -> Response:
        context = {"show_replicas": request.user.has_perm("search.view_embedding")}
        return Response(StatusSerializer(current_activity(), context=context).data)


class ImageViewSet(mixins.RetrieveModelMixin, viewsets.GenericViewSet[Image]):
    """Images of the collection."""

    queryset = Image.objects.select_related("organ", "dataset")
    serializer_class = ImageSerializer
    permission_classes = [MayDoAction]
    permissions_needed = {"retrieve": "ingest.view_image", "preview": "ingest.view_image"}

    def get_serializer_context(self) -> dict[str, Any]:
        show_files = self.request.user.has_perm("ingest.view_uploadedfile")
        return {**super().get_serializer_context(), "show_files": show_files}

    @extend_schema(responses={(200, "image/jpeg"): bytes})
    @action(detail=True)
    def preview(self, request: Request, pk: str) -> FileResponse:
        """The picture for people, as JPEG or PNG."""
        return preview_response(self.get_object().preview)
