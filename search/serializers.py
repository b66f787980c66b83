"""Queries, images and the status as JSON. Results: search/result_serializers.py."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.reverse import reverse

from ingest.models import Image
from search.activity import Activity, Work
from search.images import seen_by_active_version
from search.models import Embedding, Explanation, Query, QueryStatus
from search.replicas import Standing

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
    stated_modality = serializers.CharField(
        source="modality",
        read_only=True,
        help_text="By its file or label, not seen. Organs never learnt in it count less. Empty: not known.",
    )
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
        queryset=Image.objects.present(), required=False, pk_field=IMAGE_ID
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

    image_id = serializers.PrimaryKeyRelatedField(queryset=Image.objects.present(), pk_field=IMAGE_ID)
    is_relevant = serializers.BooleanField(allow_null=True, help_text="Null takes the mark back.")


class MarksSerializer(serializers.Serializer[Any]):
    """The marks of the person who asks, as ids of images."""

    relevant = serializers.ListField(child=serializers.IntegerField())
    irrelevant = serializers.ListField(child=serializers.IntegerField())


class WaitSerializer(serializers.Serializer[Any]):
    wait = serializers.FloatField(
        default=0, min_value=0, max_value=10, help_text="Seconds to wait for the answer."
    )


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
            "tags", "assumptions", "deidentification", "created_at", "preview_url",
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
