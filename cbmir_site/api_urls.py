"""The REST API, all of it."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.routers import DefaultRouter

from ingest.api import (
    BatchViewSet,
    DatasetVersionViewSet,
    DatasetViewSet,
    ModalityViewSet,
    OrganViewSet,
)
from ingest.sending_api import UploadsView, UploadView
from ml.api import ModelVersionViewSet, TrainingRunViewSet
from search.api import ImageViewSet, QueryViewSet, StatusViewSet

router = DefaultRouter()
router.register("queries", QueryViewSet, basename="query")
router.register("images", ImageViewSet, basename="image")
router.register("batches", BatchViewSet, basename="batch")
router.register("datasets", DatasetViewSet, basename="dataset")
router.register("dataset-versions", DatasetVersionViewSet, basename="dataset-version")
router.register("organs", OrganViewSet, basename="organ")
router.register("modalities", ModalityViewSet, basename="modality")
router.register("model-versions", ModelVersionViewSet, basename="modelversion")
router.register("training-runs", TrainingRunViewSet, basename="trainingrun")
router.register("status", StatusViewSet, basename="status")

urlpatterns = [
    *router.urls,
    path("batches/<int:pk>/uploads/", UploadsView.as_view(), name="uploads"),
    path("uploads/<int:pk>/", UploadView.as_view(), name="upload"),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="api_docs"),
]
