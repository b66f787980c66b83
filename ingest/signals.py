"""The project's one signal: images have come in, and whoever indexes them may start."""

from django.dispatch import Signal

images_imported = Signal()
"""Sent on commit after images were imported. Argument: image_ids, a list of int."""
