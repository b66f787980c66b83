"""Where everything is mounted."""

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import include, path

from search.views import SignInView

urlpatterns = [
    path("", include("search.urls")),
    path("imports/", include("search.curation_urls")),
    path("imports/", include("ingest.urls")),
    path("accounts/login/", SignInView.as_view(), name="login"),
    path("accounts/logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("api/v1/", include("cbmir_site.api_urls")),
]
