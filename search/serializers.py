"""Queries and hits as JSON: the REST API and `manage.py search_image --json` share these."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.reverse import reverse

from ingest.models import Dataset, Image, Modality, OrganClass
from search.activity import Activity
from search.images import seen_by_active_version
from search.models import Embedding, Query
from search.options import Scope, SearchOptions
from search.replicas import Standing
from search.retrieval import Hit

MAX_PAGE_SIZE = 100


class SeenSerializer(serializers.Serializer[Query]):
    """What the network sees in a query image. Empty until the query is answered."""

    organ = serializers.CharField(source="predicted_organ", read_only=True)
    organ_probability = serializers.FloatField(read_only=True)
    modality = serializers.CharField(source="predicted_modality", read_only=True)
    modality_probability = serializers.FloatField(read_only=True, allow_null=True)
    model_version = serializers.SerializerMethodField()

    def get_model_version(self, query: Query) -> str | None:
        return str(query.model_version) if query.model_version else None


class HitSerializer(serializers.Serializer[Hit]):
    """One ranked image. `file` is its path in the upload; empty for those who may not see such paths."""

    rank = serializers.IntegerField(min_value=1)
    image_id = serializers.IntegerField()
    distance = serializers.FloatField(help_text="Euclidean, on FC1; smaller is nearer.")
    organ = serializers.CharField()
    modality = serializers.CharField(allow_blank=True)
    dataset = serializers.CharField()
    file = serializers.SerializerMethodField()

    def get_file(self, hit: Hit) -> str:
        return hit.file if self.context.get("show_files") else ""


class ProbabilitySerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    probability = serializers.FloatField()


class QuerySerializer(SeenSerializer):
    id = serializers.UUIDField(read_only=True)
    status = serializers.ChoiceField(choices=["waiting", "answered", "failed"], read_only=True)
    error = serializers.CharField(read_only=True, help_text="Why the query failed.")
    created_at = serializers.DateTimeField(read_only=True)
    image_id = serializers.IntegerField(read_only=True, allow_null=True)
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
    """A file, or an image of the collection."""

    file = serializers.FileField(required=False)
    image_id = serializers.PrimaryKeyRelatedField(queryset=Image.objects.all(), required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len(attrs) != 1:
            raise serializers.ValidationError("Send either `file` or `image_id`.")
        return attrs


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

    scope = serializers.ChoiceField(choices=[scope.value for scope in Scope], default=Scope.PREDICTED.value)
    organ = NameField(slug_field="name", queryset=OrganClass.objects.all(), default=None)
    modality = NameField(slug_field="code", queryset=Modality.objects.all(), default=None)
    dataset = NameField(slug_field="name", queryset=Dataset.objects.all(), default=None)
    page = serializers.IntegerField(default=1, min_value=1, max_value=1_000_000)
    page_size = serializers.IntegerField(default=20, min_value=1, max_value=MAX_PAGE_SIZE)

    def options(self) -> SearchOptions:
        data = self.validated_data
        return SearchOptions(
            scope=Scope(data["scope"]),
            organ=str(data["organ"] or ""),
            modality=str(data["modality"] or ""),
            dataset=str(data["dataset"] or ""),
        )


class FacetsSerializer(serializers.Serializer[Any]):
    organ = serializers.DictField(child=serializers.IntegerField())
    modality = serializers.DictField(child=serializers.IntegerField())


class ResultPageSerializer(serializers.Serializer[Any]):
    """One page of a query's ranked images."""

    count = serializers.IntegerField()
    page = serializers.IntegerField()
    pages = serializers.IntegerField()
    query = SeenSerializer()
    facets = FacetsSerializer()
    results = HitSerializer(many=True)


class EmbeddingSerializer(serializers.ModelSerializer[Embedding]):
    """What a model version sees in an image of the collection."""

    organ = serializers.CharField(source="predicted_organ.name", read_only=True)
    modality = serializers.CharField(source="predicted_modality_id", read_only=True, allow_null=True)
    model_version = serializers.CharField(source="model_version.__str__", read_only=True)

    class Meta:
        model = Embedding
        fields = ["organ", "organ_probability", "modality", "modality_probability", "model_version"]


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
