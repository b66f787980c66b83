from django.urls import path

from ingest import dataset_views, quarantine_views, sending_views, views

app_name = "ingest"

urlpatterns = [
    path("", views.batch_list, name="batch_list"),
    path("new/", views.batch_create, name="batch_create"),
    path("sending/", sending_views.begin, name="sending_begin"),
    path("sending/<int:pk>/", sending_views.sent_file, name="sent_file"),
    path("datasets/", dataset_views.dataset_list, name="dataset_list"),
    path("datasets/<int:pk>/", dataset_views.dataset_detail, name="dataset_detail"),
    path("datasets/<int:pk>/split/", dataset_views.dataset_split, name="dataset_split"),
    path("datasets/<int:pk>/slices/", dataset_views.dataset_slices, name="dataset_slices"),
    path("datasets/<int:pk>/export.zip", dataset_views.dataset_export, name="dataset_export"),
    path("quarantine/", quarantine_views.quarantine, name="quarantine"),
    path("quarantine/decide/", quarantine_views.quarantine_decide, name="quarantine_decide"),
    path(
        "quarantine/<int:pk>/<int:frame>.jpg", quarantine_views.quarantine_picture, name="quarantine_picture"
    ),
    path("datasets/<int:pk>/freeze/", dataset_views.dataset_freeze, name="dataset_freeze"),
    path("datasets/<int:pk>/trash/", dataset_views.dataset_trash, name="dataset_trash"),
    path("datasets/<int:pk>/restore/", dataset_views.dataset_restore, name="dataset_restore"),
    path("datasets/versions/<int:pk>/export.zip", dataset_views.version_export, name="version_export"),
    path("names/", views.names, name="names"),
    path("names/modality/", views.modality_name, name="modality_name"),
    path("<int:pk>/", views.batch_detail, name="batch_detail"),
    path("<int:pk>/cancel/", views.batch_cancel, name="batch_cancel"),
    path("<int:pk>/sending/", sending_views.sending, name="sending"),
    path("<int:pk>/finish/", views.batch_finish, name="batch_finish"),
    path("<int:pk>/retry/", views.batch_retry, name="batch_retry"),
    path("<int:pk>/report.csv", views.batch_report, name="batch_report"),
]
