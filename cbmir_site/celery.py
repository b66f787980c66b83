"""The Celery application. Queues: ingest, inference, indexing, training, upkeep (see CELERY_TASK_ROUTES)."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cbmir_site.settings")

app = Celery("cbmir")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
