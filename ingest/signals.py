"""The project's signals: what is to happen elsewhere, without knowing where."""

from django.dispatch import Signal

images_imported = Signal()
"""Sent on commit after images were imported. Argument: image_ids, a list of int."""

about_to_work = Signal()
"""Sent before each piece of work that nobody waits for; who has people waiting may hold it up a moment."""
