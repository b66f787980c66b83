"""The clinician's pages."""

from django.urls import path

from search import views

app_name = "search"
urlpatterns = [
    path("", views.home, name="home"),
    path("status/", views.status, name="status"),
    path("queries/", views.query_create, name="query_create"),
    path("queries/<uuid:pk>/", views.query_detail, name="query_detail"),
    path("queries/<uuid:pk>/preview/", views.query_preview, name="query_preview"),
    path("images/<int:pk>/", views.image_detail, name="image_detail"),
    path("images/<int:pk>/preview/", views.image_preview, name="image_preview"),
    path("images/<int:pk>/search/", views.image_search, name="image_search"),
    path("healthz", views.healthz, name="healthz"),
]
