from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_migrate


class SearchConfig(AppConfig):
    name = "search"

    def ready(self) -> None:
        from ingest.signals import about_to_work, images_imported
        from ml.models import ModelVersion
        from search.explaining import forget_maps
        from search.giving_way import give_way
        from search.indexing import index_imported_images
        from search.models import Explanation
        from search.roles import create_roles

        images_imported.connect(index_imported_images, dispatch_uid="search.index_imported_images")
        about_to_work.connect(give_way, dispatch_uid="search.give_way")
        post_migrate.connect(create_roles, sender=self, dispatch_uid="search.create_roles")
        post_delete.connect(drop_index_of, sender=ModelVersion, dispatch_uid="search.drop_index_of")
        post_delete.connect(forget_maps, sender=Explanation, dispatch_uid="search.forget_maps")


def drop_index_of(instance: Any, **_: Any) -> None:
    """Of a version that is deleted: its embeddings go with it, its IVFFlat index is dropped afterwards."""
    from ingest.bell import ring

    ring("search.drop_embeddings", instance.pk)
