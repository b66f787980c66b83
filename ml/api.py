"""REST: model versions and training runs."""

from typing import Any

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from ml.models import ModelVersion, TrainingRun
from ml.serializers import ModelVersionSerializer, TrainingRunSerializer


class MayDoAction(IsAuthenticated):
    """Signed in, and holding the permission that the view set's `permissions_needed` names for the action."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        action_name = getattr(view, "action", None)
        if not super().has_permission(request, view):
            return False
        if action_name in {None, "metadata"}:  # a method that is not there, or OPTIONS
            return True
        return request.user.has_perm(view.permissions_needed[action_name])  # type: ignore[attr-defined]


class ModelVersionViewSet(viewsets.ReadOnlyModelViewSet[ModelVersion]):
    """Trained networks. At most one is active: it answers the queries."""

    queryset = ModelVersion.objects.all()
    serializer_class = ModelVersionSerializer
    permission_classes = [MayDoAction]
    permissions_needed = {
        "list": "search.view_query",
        "retrieve": "search.view_query",
        "activate": "ml.activate_modelversion",
    }

    @extend_schema(request=None, responses={202: ModelVersionSerializer})
    @action(detail=True, methods=["post"])
    def activate(self, request: Request, pk: str | None = None) -> Response:
        """Put the version into service: the collection is indexed with it first, then it is switched to."""
        version = self.get_object()
        version.request_activation()
        return Response(self.get_serializer(version).data, status=202)


class TrainingRunViewSet(mixins.CreateModelMixin, viewsets.ReadOnlyModelViewSet[TrainingRun]):
    """Trainings of the network: what was asked for, how far they are, how they ended."""

    queryset = TrainingRun.objects.select_related("created_by", "model_version").prefetch_related(
        "datasets", "chosen_versions", "dataset_versions"
    )
    serializer_class = TrainingRunSerializer
    permission_classes = [MayDoAction]
    permissions_needed = {
        "list": "ml.view_trainingrun",
        "retrieve": "ml.view_trainingrun",
        "create": "ml.add_trainingrun",
        "cancel": "ml.change_trainingrun",
    }

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        with transaction.atomic():
            serializer.save(created_by=self.request.user).hand_over()

    @extend_schema(request=None, responses={200: TrainingRunSerializer, 409: TrainingRunSerializer})
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str | None = None) -> Response:
        """Stop the run. 409 when it had ended before."""
        run = self.get_object()
        status = 200 if run.cancel() else 409
        return Response(self.get_serializer(run).data, status=status)
