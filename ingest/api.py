"""REST: batches of files on their way in, and the labels of the collection."""

from typing import Any

from django.db.models import Count
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.permissions import BasePermission, DjangoModelPermissions, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from ingest.bell import ring
from ingest.datasets import zip_response
from ingest.labels import Claims, ManifestError, clean_path
from ingest.ledger import cancel, retry
from ingest.models import (
    Dataset,
    DatasetVersion,
    FileState,
    Modality,
    OrganClass,
    UploadBatch,
    images_in_collection,
)
from ingest.pending import stop_waiting
from ingest.receiving import IncomingFile, manifest_among, open_batch, receive_all
from ingest.reports import csv_report
from ingest.resumable import store_manifest
from ingest.serializers import (
    BatchSerializer,
    DatasetSerializer,
    DatasetVersionSerializer,
    FileSerializer,
    FilesUploadSerializer,
    FreezeSerializer,
    ModalitySerializer,
    OrganSerializer,
    RetrySerializer,
)
from ingest.versions import VersionError, export_version, freeze_as

SLICES = ("slice_choice", "slice_step")


class ModelPermissions(DjangoModelPermissions):
    """Django's own permissions, with the one to view needed for reading too."""

    perms_map = {
        **DjangoModelPermissions.perms_map,
        "GET": ["%(app_label)s.view_%(model_name)s"],
        "HEAD": ["%(app_label)s.view_%(model_name)s"],
    }


class MaySearch(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.user.has_perm("search.view_query")


class BatchViewSet(
    mixins.CreateModelMixin,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    viewsets.GenericViewSet[UploadBatch],
):
    """Batches of files. Make one, post files to it, and ask for it until its state is "finished"."""

    queryset = UploadBatch.objects.with_counts().select_related("dataset").order_by("-id")
    serializer_class = BatchSerializer
    permission_classes = [IsAuthenticated, ModelPermissions]
    parser_classes = [JSONParser, FormParser, MultiPartParser]

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        asked = serializer.validated_data
        batch = open_batch(
            asked["dataset"]["name"],
            asked["label_source"],
            self.request.user,
            makes_organs=asked["makes_organs"],
            is_trusted=asked["is_trusted"],
            manifest_columns=asked["dataset"].get("manifest_columns"),
            is_dry_run=asked["is_dry_run"],
            files_to_come=asked["files_to_come"],
            **{name: asked["dataset"][name] for name in SLICES if name in asked["dataset"]},
        )
        if manifest := asked.get("manifest"):
            store_manifest(batch, clean_path(asked["manifest_path"]), manifest, manifest.size)
        serializer.instance = self.get_queryset().get(pk=batch.pk)

    @extend_schema(
        parameters=[OpenApiParameter("state", enum=FileState.values)], responses=FileSerializer(many=True)
    )
    @action(detail=True, methods=["get"])
    def files(self, request: Request, pk: str | None = None) -> Response:
        """The batch's files and what became of each."""
        files = self.get_object().files.prefetch_related("images").order_by("id")
        if state := request.query_params.get("state"):
            files = files.filter(state=state)
        page = self.paginate_queryset(files)  # type: ignore[arg-type]
        return self.get_paginated_response(FileSerializer(page, many=True).data)  # type: ignore[arg-type]

    @extend_schema(
        request={"multipart/form-data": FilesUploadSerializer}, responses={201: FileSerializer(many=True)}
    )
    @files.mapping.post
    def add_files(self, request: Request, pk: str | None = None) -> Response:
        """Bring files in. Archives are unpacked, and a manifest.csv sent along labels the files beside it."""
        asked = FilesUploadSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        batch = self.get_object()
        files = incoming_files(asked.validated_data)
        try:
            rows = list(
                receive_all(batch, files, manifest_among(files, columns=batch.dataset.manifest_columns))
            )
        except ManifestError as error:
            raise ValidationError({"file": str(error)}) from error
        ring("ingest.import_queued_files")
        return Response(FileSerializer(rows, many=True).data, status=201)

    @extend_schema(request=None, responses=BatchSerializer)
    @action(detail=True, methods=["post"])
    def close(self, request: Request, pk: str | None = None) -> Response:
        """Expect no more files sent in parts; one that was not sent to its end is rejected."""
        batch = self.get_object()
        if batch.source:
            raise ValidationError(
                "The files of this batch are not sent: they come from a folder of the server."
            )
        stop_waiting(batch)
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(request=None, responses=BatchSerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str | None = None) -> Response:
        """Reject the files that nobody has begun to read; nothing more comes out of a folder of the server.

        What was taken in can be tried again.
        """
        batch = self.get_object()
        cancel(batch)
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(request=RetrySerializer, responses=BatchSerializer)
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str | None = None) -> Response:
        """Queue rejected files again: all, those of one reason_code, or one file. Others are left alone."""
        asked = RetrySerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        if retry(self.get_object(), **asked.validated_data):
            ring("ingest.import_queued_files")
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(responses={(200, "text/csv"): OpenApiTypes.STR})
    @action(detail=True, methods=["get"])
    def report(self, request: Request, pk: str | None = None) -> StreamingHttpResponse:
        """The whole ledger as CSV."""
        return csv_report(self.get_object())


def incoming_files(asked: dict[str, Any]) -> list[IncomingFile]:
    names = ("path", "file", "organ", "modality", "group_id", "split")
    return [
        IncomingFile(path, file.open, Claims(organ, modality, group, split))
        for path, file, organ, modality, group, split in zip(*(asked[name] for name in names), strict=True)
    ]


class MayCurate(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.user.has_perm("ingest.view_dataset")


class CollectionViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[Any]):
    permission_classes = [IsAuthenticated, MaySearch]


@extend_schema_view(
    list=extend_schema(description="The organs of the collection, with their images' number.")
)
class OrganViewSet(CollectionViewSet):
    queryset = OrganClass.objects.annotate(image_count=images_in_collection()).order_by("name")
    serializer_class = OrganSerializer


@extend_schema_view(list=extend_schema(description="The modalities of the collection, by DICOM code."))
class ModalityViewSet(CollectionViewSet):
    queryset = Modality.objects.annotate(image_count=images_in_collection()).order_by("code")
    serializer_class = ModalitySerializer


class MayChangeDatasets(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.user.has_perm("ingest.change_dataset")


@extend_schema_view(
    list=extend_schema(description="The data sets of the collection."),
    retrieve=extend_schema(description="One of them."),
)
class DatasetViewSet(mixins.RetrieveModelMixin, CollectionViewSet):
    queryset = Dataset.objects.present().annotate(image_count=Count("images")).order_by("name")
    serializer_class = DatasetSerializer

    def get_permissions(self) -> Any:
        """Who searches may read; who curates may set and freeze."""
        return (
            [IsAuthenticated(), MayChangeDatasets()]
            if self.request.method in ("PATCH", "POST")
            else super().get_permissions()
        )

    def partial_update(self, request: Request, pk: str | None = None) -> Response:
        """Choose which slices of volumes the data set takes, of files to come and of those tried again."""
        asked = self.get_serializer(self.get_object(), data=request.data, partial=True)
        asked.is_valid(raise_exception=True)
        asked.save()
        return Response(asked.data)

    @extend_schema(responses=DatasetVersionSerializer(many=True))
    @action(detail=True, methods=["get"], permission_classes=[IsAuthenticated, MayCurate])
    def versions(self, request: Request, pk: str | None = None) -> Response:
        """Its frozen versions, the newest first."""
        page = self.paginate_queryset(self.get_object().versions.select_related("dataset"))
        return self.get_paginated_response(DatasetVersionSerializer(page, many=True).data)  # type: ignore[arg-type]

    @extend_schema(
        request=FreezeSerializer, responses={200: DatasetVersionSerializer, 201: DatasetVersionSerializer}
    )
    @versions.mapping.post
    def freeze(self, request: Request, pk: str | None = None) -> Response:
        """Keep what is in it now as a version. 200 and the last one where nothing has changed since that."""
        asked = FreezeSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        dataset: Dataset = self.get_object()
        last = dataset.versions.first()
        try:
            version = freeze_as(dataset, asked.validated_data["name"], request.user)
        except VersionError as error:
            raise ValidationError({"name": [str(error)]}) from error
        return Response(DatasetVersionSerializer(version).data, status=200 if version == last else 201)


@extend_schema_view(
    list=extend_schema(description="Frozen versions of the data sets, the newest first."),
    retrieve=extend_schema(description="One of them."),
)
class DatasetVersionViewSet(mixins.RetrieveModelMixin, CollectionViewSet):
    queryset = DatasetVersion.objects.present().select_related("dataset")
    serializer_class = DatasetVersionSerializer
    permission_classes = [IsAuthenticated, MayCurate]

    @extend_schema(responses={(200, "application/zip"): OpenApiTypes.BINARY})
    @action(detail=True, methods=["get"], permission_classes=[IsAuthenticated, MayChangeDatasets])
    def export(self, request: Request, pk: str | None = None) -> StreamingHttpResponse:
        """A zip of its images, as the network sees them, and a manifest.csv with their labels of then."""
        version = self.get_object()
        return zip_response(export_version(version), str(version))
