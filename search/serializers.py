"""Queries and hits as JSON: the REST API and `manage.py search_image --json` share these."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.reverse import reverse

from ingest.models import Dataset, Image, Modality, OrganClass
from search.activity import Activity, Work
from search.images import seen_by_active_version
from search.models import Embedding, Explanation, Query, QueryStatus
from search.options import AGE_BANDS, SEXES, Collapse, Scope, SearchOptions
from search.replicas import Standing
from search.retrieval import Hit, ResultPage

MAX_PAGE_SIZE = 100
IMAGE_ID = serializers.IntegerField(min_value=1, max_value=2**63 - 1)


class SeenSerializer(serializers.Serializer[Query]):
    """What the network sees in a query image. Empty until the query is answered."""

    organ = serializers.CharField(source="predicted_organ", read_only=True)
    organ_probability = serializers.FloatField(read_only=True)
    modality = serializers.CharField(source="predicted_modality", read_only=True)
    modality_probability = serializers.FloatField(read_only=True, allow_null=True)
    model_version = serializers.SerializerMethodField()

    def get_model_version(self, query: Query) -> str | None:
        return str(query.model_version) if query.model_version else None


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


class ProbabilitySerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    probability = serializers.FloatField()


class PartSerializer(serializers.Serializer[Query]):
    """One of several images of a query."""

    id = serializers.UUIDField(read_only=True)
    status = serializers.ChoiceField(choices=QueryStatus.choices, read_only=True)
    error = serializers.CharField(read_only=True)


class QuerySerializer(SeenSerializer):
    id = serializers.UUIDField(read_only=True)
    status = serializers.ChoiceField(choices=QueryStatus.choices, read_only=True)
    error = serializers.CharField(read_only=True, help_text="Why the query failed.")
    created_at = serializers.DateTimeField(read_only=True)
    image_id = serializers.IntegerField(read_only=True, allow_null=True)
    is_unlike = serializers.BooleanField(
        read_only=True,
        allow_null=True,
        help_text="Nothing in the collection resembles it: there is no good match. Null: not known.",
    )
    nearest_distance = serializers.FloatField(read_only=True, allow_null=True)
    energy = serializers.FloatField(read_only=True, allow_null=True)
    is_sure = serializers.BooleanField(
        read_only=True, help_text="Of the organ; where not, scope `predicted` searches the two likeliest."
    )
    parent_id = serializers.UUIDField(
        read_only=True, allow_null=True, help_text="The query that this one is a part of, or refines."
    )
    region = serializers.ListField(
        child=serializers.FloatField(),
        read_only=True,
        allow_null=True,
        help_text="left, top, right, bottom in the parent's picture, each 0 to 1.",
    )
    parts = PartSerializer(many=True, read_only=True, help_text="Of a query with several images.")
    organ_probabilities = serializers.SerializerMethodField()
    modality_probabilities = serializers.SerializerMethodField()
    url = serializers.SerializerMethodField(help_text="This query in the API.")
    results_url = serializers.SerializerMethodField()
    page_url = serializers.SerializerMethodField(help_text="The page for people.")

    def get_organ_probabilities(self, query: Query) -> list[dict[str, Any]]:
        return probabilities(query.organ_probabilities)

    def get_modality_probabilities(self, query: Query) -> list[dict[str, Any]]:
        return probabilities(query.modality_probabilities)

    def get_url(self, query: Query) -> str:
        return self.address("query-detail", query)

    def get_results_url(self, query: Query) -> str:
        return self.address("query-results", query)

    def get_page_url(self, query: Query) -> str:
        return self.address("search:query_detail", query)

    def address(self, name: str, query: Query) -> str:
        return str(reverse(name, args=[query.pk], request=self.context.get("request")))


def probabilities(pairs: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"name": name, "probability": probability} for name, probability in pairs]


class NewQuerySerializer(serializers.Serializer[Any]):
    """Files as one query, if need be beside those of another query; or an image of the collection."""

    file = serializers.ListField(
        child=serializers.FileField(allow_empty_file=True), required=False, help_text="Repeated, up to 20."
    )
    image_id = serializers.PrimaryKeyRelatedField(
        queryset=Image.objects.all(), required=False, pk_field=IMAGE_ID
    )
    beside = serializers.PrimaryKeyRelatedField(
        queryset=Query.objects.all(), required=False, pk_field=serializers.UUIDField()
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if bool(attrs.get("file")) == ("image_id" in attrs):
            raise serializers.ValidationError("Send either `file` or `image_id`.")
        return attrs


class RegionSerializer(serializers.Serializer[Any]):
    """A rectangle of the query's picture, in shares of its width and height."""

    left = serializers.FloatField(min_value=0, max_value=1)
    top = serializers.FloatField(min_value=0, max_value=1)
    right = serializers.FloatField(min_value=0, max_value=1)
    bottom = serializers.FloatField(min_value=0, max_value=1)


class MarkSerializer(serializers.Serializer[Any]):
    """A person's word on a result."""

    image_id = serializers.PrimaryKeyRelatedField(queryset=Image.objects.all(), pk_field=IMAGE_ID)
    is_relevant = serializers.BooleanField(allow_null=True, help_text="Null takes the mark back.")


class MarksSerializer(serializers.Serializer[Any]):
    """The marks of the person who asks, as ids of images."""

    relevant = serializers.ListField(child=serializers.IntegerField())
    irrelevant = serializers.ListField(child=serializers.IntegerField())


class WaitSerializer(serializers.Serializer[Any]):
    wait = serializers.FloatField(
        default=0, min_value=0, max_value=10, help_text="Seconds to wait for the answer."
    )


class NameField(serializers.SlugRelatedField[Any]):
    """A row by its name. NUL, which PostgreSQL refuses, is in no name."""

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(str(data).replace("\0", "\N{REPLACEMENT CHARACTER}"))


class SearchSerializer(serializers.Serializer[Any]):
    """The parameters of a result page."""

    scope = serializers.ChoiceField(
        choices=[scope.value for scope in Scope],
        default=Scope.BLENDED.value,
        help_text="`blended`: all, likely organs count as nearer; `predicted`: that organ; `all`: distance.",
    )
    organ = NameField(slug_field="name", queryset=OrganClass.objects.all(), default=None)
    modality = NameField(slug_field="code", queryset=Modality.objects.all(), default=None)
    dataset = NameField(slug_field="name", queryset=Dataset.objects.all(), default=None)
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


class ExplanationSerializer(serializers.Serializer[Explanation]):
    """Why an image is like a query. The maps are PNG to lay over the whole pictures."""

    status = serializers.ChoiceField(choices=QueryStatus.choices, read_only=True)
    error = serializers.CharField(read_only=True)
    similarity = serializers.FloatField(read_only=True, allow_null=True, help_text="Cosine of both FC1.")
    query_map_url = serializers.SerializerMethodField()
    image_map_url = serializers.SerializerMethodField()

    def get_query_map_url(self, explanation: Explanation) -> str | None:
        return self.address(explanation, "query") if explanation.query_map else None

    def get_image_map_url(self, explanation: Explanation) -> str | None:
        return self.address(explanation, "image") if explanation.image_map else None

    def address(self, explanation: Explanation, which: str) -> str:
        place = [explanation.query_id, explanation.image_id, which]
        return str(reverse("search:explanation_map", args=place, request=self.context.get("request")))


class EmbeddingSerializer(serializers.ModelSerializer[Embedding]):
    """What a model version sees in an image of the collection."""

    organ = serializers.CharField(source="predicted_organ.name", read_only=True)
    modality = serializers.CharField(source="predicted_modality_id", read_only=True, allow_null=True)
    model_version = serializers.CharField(source="model_version.__str__", read_only=True)

    class Meta:
        model = Embedding
        fields = ["organ", "organ_probability", "modality", "modality_probability", "model_version"]


class BuildSerializer(serializers.Serializer[Work]):
    """A search index that is being built."""

    model_version = serializers.CharField(source="title")
    percent = serializers.IntegerField()


class ReplicaSerializer(serializers.Serializer[Standing]):
    """A read replica. The numbers are null where it does not answer."""

    name = serializers.CharField()
    is_reachable = serializers.BooleanField()
    is_near = serializers.BooleanField(help_text="Near enough to the primary to be searched.")
    bytes_behind = serializers.IntegerField(allow_null=True, help_text="Of the primary's log.")
    seconds_behind = serializers.FloatField(allow_null=True, help_text="At most.")


class StatusSerializer(serializers.Serializer[Activity]):
    images = serializers.IntegerField(help_text="In the collection.")
    searchable = serializers.IntegerField(help_text="Of these, described by the active version.")
    organs = serializers.IntegerField()
    modalities = serializers.IntegerField()
    model_version = serializers.CharField(source="active_version", allow_null=True)
    engines = serializers.ListField(
        child=serializers.CharField(),
        help_text="What the network runs on; empty: no worker has it ready.",
    )
    is_busy = serializers.BooleanField(help_text="Something is being imported, trained or indexed.")
    index_builds = BuildSerializer(many=True, source="builds")
    recall_at_20 = serializers.FloatField(
        allow_null=True, help_text="Share of the 20 nearest that searches find, as last measured."
    )
    warnings = serializers.ListField(child=serializers.CharField(), help_text="Sentences for people.")
    replicas = serializers.SerializerMethodField(help_text="Empty for those who do not look after them.")

    @extend_schema_field(ReplicaSerializer(many=True))
    def get_replicas(self, activity: Activity) -> Any:
        shown = activity.replicas if self.context.get("show_replicas") else []
        return [ReplicaSerializer(standing).data for standing in shown]


class ImageSerializer(serializers.ModelSerializer[Image]):
    """An image of the collection: its labels, what the active version sees, what its file says."""

    organ = serializers.CharField(source="organ.name", read_only=True, default=None)
    modality = serializers.CharField(source="modality_id", read_only=True, allow_null=True)
    dataset = serializers.CharField(source="dataset.name", read_only=True)
    file = serializers.SerializerMethodField()
    seen = serializers.SerializerMethodField()
    preview_url = serializers.SerializerMethodField()

    class Meta:
        model = Image
        fields = [
            "id", "dataset", "organ", "modality", "seen", "file", "file_format", "transfer_syntax_uid",
            "rows", "columns", "bits_stored", "frame_number", "number_of_frames", "body_part_examined",
            "tags", "assumptions", "created_at", "preview_url",
        ]  # fmt: skip
        read_only_fields = fields

    def get_file(self, image: Image) -> str:
        return image.source_path if self.context.get("show_files") else ""

    @extend_schema_field(EmbeddingSerializer(allow_null=True))
    def get_seen(self, image: Image) -> Any:
        seen = seen_by_active_version(image)
        return EmbeddingSerializer(seen).data if seen else None

    def get_preview_url(self, image: Image) -> str:
        return str(reverse("image-preview", args=[image.pk], request=self.context.get("request")))
