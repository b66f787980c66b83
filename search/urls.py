"""The clinician's pages."""

from django.urls import path, re_path

from search import asking_views, explaining_views, reviewing_views, views

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
    path("queries/<uuid:pk>/why/<int:image_pk>/", explaining_views.explanation, name="explanation"),
    re_path(
        r"^queries/(?P<pk>[0-9a-f-]{36})/why/(?P<image_pk>\d{1,18})/(?P<which>query|image)\.png$",
        explaining_views.explanation_map,
        name="explanation_map",
    ),
    path("images/<int:pk>/", views.image_detail, name="image_detail"),
    path("images/<int:pk>/preview/", views.image_preview, name="image_preview"),
    path("images/<int:pk>/search/", views.image_search, name="image_search"),
    path("review/", reviewing_views.review, name="review"),
    path("review/answer/", reviewing_views.review_answer, name="review_answer"),
    path("review/undo/<int:pk>/", reviewing_views.review_undo, name="review_undo"),
    path("healthz", views.healthz, name="healthz"),
]
