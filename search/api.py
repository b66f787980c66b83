"""REST: queries and their ranked results."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.http import FileResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.helpers import forced_singular_serializer
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, PermissionDenied, ValidationError
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from ingest.models import Image
from ml.api import MayDoAction
from search import asking
from search.activity import current_activity
from search.asking import RefinementError
from search.asking_forms import sort_out
from search.explaining import ask_why, results_named
from search.marking import mark, marks_of
from search.models import Query, QueryStatus
from search.previews import preview_response
from search.result_serializers import ResultPageSerializer, SearchSerializer
from search.retrieval import search, server_timing
from search.serializers import (
    ExplanationSerializer,
    ImageSerializer,
    MarkSerializer,
    MarksSerializer,
    NewQuerySerializer,
    QuerySerializer,
    RegionSerializer,
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


class CannotBeAsked(APIException):
    status_code = 422
    default_code = "not_asked"


DROPPED = "What {} saw in the collection has been dropped since. Send the query again."


class QueryViewSet(viewsets.GenericViewSet[Query]):
    """Searches by image: send one, read what the network sees in it, page through what is like it."""

    queryset = Query.objects.select_related("model_version", "parent")
    serializer_class = QuerySerializer
    parser_classes = [MultiPartParser, FormParser, JSONParser]
    permission_classes = [MayDoAction]
    permissions_needed = {
        "create": "search.add_query",
        "retrieve": "search.view_query",
        "results": "search.view_query",
        "region": "search.add_query",
        "marks": "search.view_query",
        "mark": "search.add_mark",
        "refine": "search.add_query",
        "newest": "search.add_query",
        "explanation": "search.view_query",
    }

    @extend_schema(request=NewQuerySerializer, responses={201: QuerySerializer})
    def create(self, request: Request) -> Response:
        """Search with files (DICOM, PNG, JPEG, TIFF, BMP) as one query, or with an image of the collection.

        Of several files, those that cannot be read are told in `parts`; the others are searched with.
        """
        asked = NewQuerySerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        data = asked.validated_data
        if image := data.get("image_id"):
            return self.asked(asking.ask_with_image(image, request.user))
        taken, refused = sort_out(data["file"])
        if not taken:
            raise ValidationError({"file": [sentence for _, sentence in refused]})
        with refused_with_sentence():
            query = asking.ask_with_several(
                [file.read() for file in taken],
                request.user,
                names=[file.name or "" for file in taken],
                refused=refused,
                beside=data.get("beside"),
            )
        return self.asked(query)

    def asked(self, query: Query) -> Response:
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
        query = self.get_object()
        asked = SearchSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        wanted = asked.validated_data
        if wanted["explain"] and not request.user.has_perm("ml.activate_modelversion"):
            raise PermissionDenied("How a ranking was found is told to admins alone.")
        require_results(query)
        found = search(query, asked.options(), page=wanted["page"], page_size=wanted["page_size"])
        context = {
            "query": query,
            "explain": wanted["explain"],
            "show_files": request.user.has_perm("ingest.view_uploadedfile"),
        }
        page = ResultPageSerializer(found, context=context).data
        return Response(page, headers={"Server-Timing": server_timing(query, found)})

    @extend_schema(request=RegionSerializer, responses={201: QuerySerializer})
    @action(detail=True, methods=["post"])
    def region(self, request: Request, pk: str) -> Response:
        """Search with a part of the query's picture."""
        query = self.get_object()
        asked = RegionSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        edges = [asked.validated_data[name] for name in ("left", "top", "right", "bottom")]
        with refused_with_sentence():
            return self.asked(asking.ask_with_region(query, edges, request.user))

    @extend_schema(responses=MarksSerializer)
    @action(detail=True, pagination_class=None)
    def marks(self, request: Request, pk: str) -> Response:
        """What the person who asks has marked among the query's results."""
        return self.marked(self.get_object(), request)

    @extend_schema(request=MarkSerializer, responses=MarksSerializer)
    @marks.mapping.post
    def mark(self, request: Request, pk: str) -> Response:
        """Mark a result as relevant or not, or take the mark back."""
        query = self.get_object()
        given = MarkSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        mark(query, given.validated_data["image_id"], request.user, given.validated_data["is_relevant"])
        return self.marked(query, request)

    def marked(self, query: Query, request: Request) -> Response:
        marks = marks_of(query, request.user)
        return Response({"relevant": sorted(marks.relevant), "irrelevant": sorted(marks.irrelevant)})

    @extend_schema(request=None, responses={201: QuerySerializer})
    @action(detail=True, methods=["post"])
    def refine(self, request: Request, pk: str) -> Response:
        """Search anew with the query moved by one's marks on its results."""
        query = self.get_object()
        with refused_with_sentence():
            return self.asked(asking.ask_refined(query, request.user))

    @extend_schema(request=None, responses=QuerySerializer)
    @action(detail=True, methods=["post"])
    def newest(self, request: Request, pk: str) -> Response:
        """Let the results be among all the images that there are now. Only for who asked the query."""
        query = self.get_object()
        if not query.was_asked_by(request.user):
            raise PermissionDenied("Only who asked a query changes what its results are among.")
        query.go_on_to_newest()
        return Response(self.get_serializer(query).data)

    @extend_schema(responses=ExplanationSerializer)
    @action(detail=True, url_path=r"explanations/(?P<image_pk>\d{1,18})", pagination_class=None)
    def explanation(self, request: Request, pk: str, image_pk: str) -> Response:
        """What makes an image like the query. Asked for the first time it is `waiting` for some seconds."""
        query = self.get_object()
        require_results(query)
        embedding = get_object_or_404(results_named(query, int(image_pk)))
        context = self.get_serializer_context()
        return Response(ExplanationSerializer(ask_why(query, embedding.image), context=context).data)


def require_results(query: Query) -> None:
    """Raises what tells why the query has none."""
    if query.status == QueryStatus.WAITING:
        raise NotAnsweredYet
    if query.status == QueryStatus.FAILED:
        raise CannotBeAnswered(query.error)
    if query.has_lost_embeddings():
        raise CannotBeAnswered(DROPPED.format(query.model_version))


@contextmanager
def refused_with_sentence() -> Iterator[None]:
    try:
        yield
    except RefinementError as error:
        raise CannotBeAsked(str(error)) from error


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

    queryset = Image.objects.present().select_related("organ", "dataset")
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
