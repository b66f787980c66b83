from django.urls import path

from ingest import dataset_views, sending_views, views

app_name = "ingest"

urlpatterns = [
    path("", views.batch_list, name="batch_list"),
    path("new/", views.batch_create, name="batch_create"),
    path("sending/", sending_views.begin, name="sending_begin"),
    path("sending/<int:pk>/", sending_views.sent_file, name="sent_file"),
    path("datasets/", dataset_views.dataset_list, name="dataset_list"),
    path("datasets/<int:pk>/", dataset_views.dataset_detail, name="dataset_detail"),
    path("datasets/<int:pk>/split/", dataset_views.dataset_split, name="dataset_split"),
    path("datasets/<int:pk>/export.zip", dataset_views.dataset_export, name="dataset_export"),
    path("names/", views.names, name="names"),
    path("<int:pk>/", views.batch_detail, name="batch_detail"),
    path("<int:pk>/cancel/", views.batch_cancel, name="batch_cancel"),
    path("<int:pk>/sending/", sending_views.sending, name="sending"),
    path("<int:pk>/finish/", views.batch_finish, name="batch_finish"),
    path("<int:pk>/retry/", views.batch_retry, name="batch_retry"),
    path("<int:pk>/report.csv", views.batch_report, name="batch_report"),
]
