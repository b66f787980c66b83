from django.urls import path

from ingest import views

app_name = "ingest"

urlpatterns = [
    path("", views.batch_list, name="batches"),
    path("new/", views.batch_new, name="batch_new"),
    path("<int:pk>/", views.batch_detail, name="batch"),
]
