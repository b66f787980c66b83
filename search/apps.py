from django.apps import AppConfig
from django.db.models.signals import post_migrate


class SearchConfig(AppConfig):
    name = "search"

    def ready(self) -> None:
        from ingest.signals import images_imported
        from search.indexing import index_imported_images
        from search.roles import create_roles

        images_imported.connect(index_imported_images, dispatch_uid="search.index_imported_images")
        post_migrate.connect(create_roles, sender=self, dispatch_uid="search.create_roles")
