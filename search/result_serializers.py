"""Results as JSON, and what they are asked with: the REST API and `manage.py search_image` share these."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from ingest.models import Dataset, Modality, OrganClass
from ingest.naming import current_organs
from search.options import AGE_BANDS, SEXES, Collapse, Scope, SearchOptions
from search.retrieval import Hit, ResultPage
from search.serializers import SeenSerializer

MAX_PAGE_SIZE = 100


class MatchSerializer(serializers.Serializer[Any]):
    """How the distance compares with those between images of different patients of the collection."""

    word = serializers.ChoiceField(choices=["strong", "good", "fair", "weak"])
    nearer_than_same = serializers.IntegerField(
        help_text="Per cent of the pairs of images of one organ that are farther apart."
    )
    other_as_near = serializers.FloatField(
        help_text="Per cent of the pairs of images of two organs that are as near."
    )


class HitSerializer(serializers.Serializer[Hit]):
    """One ranked image. `file` is its path in the upload; empty for those who may not see such paths."""

    rank = serializers.IntegerField(min_value=1)
    image_id = serializers.IntegerField()
    distance = serializers.FloatField(help_text="Euclidean, on FC1; smaller is nearer.")
    match = MatchSerializer(allow_null=True, help_text="Null until the model version's index is fitted.")
    organ = serializers.CharField(help_text="Its label, or where it has none what the network sees.")
    organ_is_predicted = serializers.BooleanField()
    modality = serializers.CharField(allow_blank=True)
    modality_is_predicted = serializers.BooleanField()
    is_other_organ = serializers.BooleanField(
        help_text="Than the one, or the two while the network is not sure, likely for the query."
    )
    dataset = serializers.CharField()
    more_of_series = serializers.IntegerField(help_text="Other images of its series that the filters keep.")
    nearly_same = serializers.IntegerField(help_text="Images nearly the same that it stands for.")
    file = serializers.SerializerMethodField()

    def get_file(self, hit: Hit) -> str:
        return hit.file if self.context.get("show_files") else ""


class NameField(serializers.SlugRelatedField[Any]):
    """A row by its name. NUL, which PostgreSQL refuses, is in no name."""

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(str(data).replace("\0", "\N{REPLACEMENT CHARACTER}"))


class OrganField(NameField):
    """An organ by its name, or by one that it had."""

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(current_organs([str(data).replace("\0", "")])[0])


class SearchSerializer(serializers.Serializer[Any]):
    """The parameters of a result page."""

    scope = serializers.ChoiceField(
        choices=[scope.value for scope in Scope],
        default=Scope.BLENDED.value,
        help_text="`blended`: all, likely organs count as nearer; `predicted`: that organ; `all`: distance.",
    )
    organ = OrganField(slug_field="name", queryset=OrganClass.objects.all(), default=None)
    modality = NameField(slug_field="code", queryset=Modality.objects.all(), default=None)
    dataset = NameField(slug_field="name", queryset=Dataset.objects.present(), default=None)
    view = serializers.CharField(default="", max_length=16, help_text="ViewPosition.")
    sex = serializers.ChoiceField(choices=list(SEXES), default="", help_text="PatientSex.")
    age = serializers.ChoiceField(choices=list(AGE_BANDS), default="", help_text="Years.")
    words = serializers.CharField(default="", max_length=200, help_text="In what the files say.")
    imported_from = serializers.DateField(default=None)
    imported_to = serializers.DateField(default=None)
    series = serializers.IntegerField(
        default=None, min_value=1, max_value=2**63 - 1, help_text="Only images of this image's series."
    )
    own = serializers.BooleanField(default=False, help_text="Also the query's own patient and duplicates.")
    collapse = serializers.ChoiceField(
        choices=[kind.value for kind in Collapse],
        default=Collapse.SERIES.value,
        help_text="What of each only the nearest image is shown.",
    )
    explain = serializers.BooleanField(default=False, help_text="Tell how it was found; for admins.")
    page = serializers.IntegerField(default=1, min_value=1, max_value=1_000_000)
    page_size = serializers.IntegerField(default=20, min_value=1, max_value=MAX_PAGE_SIZE)

    def options(self) -> SearchOptions:
        data = self.validated_data
        return SearchOptions(
            scope=Scope(data["scope"]),
            organ=str(data["organ"] or ""),
            modality=data["modality"].pk if data["modality"] else "",
            dataset=str(data["dataset"] or ""),
            view=data["view"].upper(),
            sex=data["sex"],
            age=data["age"],
            words=data["words"],
            imported_from=data["imported_from"],
            imported_to=data["imported_to"],
            series_of=data["series"],
            own=data["own"],
            collapse=Collapse(data["collapse"]),
        )


class FacetsSerializer(serializers.Serializer[ResultPage]):
    """Images by organ and by modality; each number is what that filter would find."""

    organ = serializers.SerializerMethodField()
    modality = serializers.SerializerMethodField()

    def get_organ(self, page: ResultPage) -> dict[str, int]:
        return dict(page.organ_facets)

    def get_modality(self, page: ResultPage) -> dict[str, int]:
        return dict(page.modality_facets)


class PlanSerializer(serializers.Serializer[Any]):
    """What was done for a ranking, or for its part within an organ."""

    path = serializers.CharField(source="path.value")
    organ = serializers.CharField(allow_blank=True)
    kept = serializers.IntegerField(help_text="Images that the filters keep.")
    candidates = serializers.IntegerField(help_text="Images whose projected distance came back.")
    ranked = serializers.IntegerField(help_text="Images ranked on FC1.")


class ResultPageSerializer(serializers.Serializer[ResultPage]):
    """One page of a query's ranked images."""

    count = serializers.IntegerField(source="total", help_text="Images that the filters keep.")
    page = serializers.IntegerField()
    pages = serializers.IntegerField(allow_null=True, help_text="Null where collapsing leaves it open.")
    has_next = serializers.BooleanField()
    searched_organs = serializers.ListField(child=serializers.CharField(), help_text="Empty: all.")
    newer = serializers.IntegerField(help_text="Images that came in since the query was answered.")
    query = serializers.SerializerMethodField()
    facets = FacetsSerializer(source="*")
    plans = serializers.SerializerMethodField(help_text="Only where `explain` is asked for.")
    results = HitSerializer(many=True, source="hits")

    @extend_schema_field(SeenSerializer)
    def get_query(self, page: ResultPage) -> Any:
        return SeenSerializer(self.context["query"]).data

    @extend_schema_field(PlanSerializer(many=True))
    def get_plans(self, page: ResultPage) -> Any:
        return PlanSerializer(page.plans if self.context["explain"] else [], many=True).data
