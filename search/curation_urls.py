"""The curators' pages that need to know what the network sees; beside those of imports."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from search import classes_views, merging_views


class KindConverter(StringConverter):
    regex = "organ|modality"


register_converter(KindConverter, "kind")

app_name = "curation"
urlpatterns = [
    path("classes/", classes_views.class_list, name="classes"),
    path("classes/<kind:kind>/add/", classes_views.class_add, name="class_add"),
    path("classes/organ/<int:pk>/", classes_views.organ_detail, name="organ"),
    path("classes/modality/<str:pk>/", classes_views.modality_detail, name="modality"),
    path("classes/<kind:kind>/<str:pk>/merge/", classes_views.class_merge, name="class_merge"),
    path("classes/<kind:kind>/names/<int:pk>/", classes_views.class_name, name="class_name"),
    path("duplicates/", merging_views.duplicates, name="duplicates"),
    path("duplicates/<int:pk>/", merging_views.duplicate_answer, name="duplicate_answer"),
    path("classes/undo/<int:pk>/", classes_views.class_undo, name="class_undo"),
]
