"""Whether the images and what is seen in them agree; ringing for the workers where something is missing."""

from django.db.models import Exists, OuterRef
from django.utils import timezone

from ingest.bell import ring
from ingest.checking import SETTLED, Finding
from ingest.models import Image
from ml.models import ModelVersion
from search.indexing import images_missing
from search.models import Embedding


def check_embeddings(repair: bool = False) -> list[Finding]:
    """Every image has an embedding of the active version, every embedding its image.

    Images of the last hour may still wait for theirs. Without an active version nothing is missing.
    """
    missing = Finding("embedding_missing", "images that searches do not find")
    awaited = Finding("embedding_awaited", "new images that are still to be indexed", is_problem=False)
    stray = Finding("embedding_stray", "embeddings of images that are gone", of="embedding")
    if version := ModelVersion.objects.active():
        images, an_hour_ago = images_missing(version), timezone.now() - SETTLED
        missing.add_all(images.filter(created_at__lt=an_hour_ago))
        awaited.add_all(images.filter(created_at__gte=an_hour_ago))
    if repair and missing.count + awaited.count:
        ring("search.index_images")
    strays = Embedding.objects.filter(~Exists(Image.objects.filter(pk=OuterRef("image_id"))))
    stray.add_all(strays)
    if repair and stray.count:
        stray.repaired, _ = strays.delete()
        stray.numbers = []
    return [missing, awaited, stray]
