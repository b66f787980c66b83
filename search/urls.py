"""The clinician's pages."""

from django.urls import path

from search import asking_views, views

app_name = "search"
urlpatterns = [
    path("", views.home, name="home"),
    path("status/", views.status, name="status"),
    path("queries/", asking_views.query_create, name="query_create"),
    path("queries/<uuid:pk>/", views.query_detail, name="query_detail"),
    path("queries/<uuid:pk>/preview/", views.query_preview, name="query_preview"),
    path("queries/<uuid:pk>/region/", asking_views.query_region, name="query_region"),
    path("queries/<uuid:pk>/marks/", asking_views.query_mark, name="query_mark"),
    path("queries/<uuid:pk>/refine/", asking_views.query_refine, name="query_refine"),
    path("queries/<uuid:pk>/newest/", asking_views.query_newest, name="query_newest"),
    path("queries/<uuid:pk>/again/", asking_views.query_again, name="query_again"),
    path("images/<int:pk>/", views.image_detail, name="image_detail"),
    path("images/<int:pk>/preview/", views.image_preview, name="image_preview"),
    path("images/<int:pk>/search/", views.image_search, name="image_search"),
    path("healthz", views.healthz, name="healthz"),
]
