"""Asking: queries from files, images of the collection or other queries; search/answering.py answers them."""

import hashlib
from collections.abc import Sequence

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction

from ingest.bell import ring
from ingest.deidentifying import deidentify
from ingest.image_file import RejectedFile
from ingest.models import Image
from ingest.pseudonyms import LENGTH
from ingest.storing import store_once
from search.models import Mark, Query, QueryStatus
from search.pictures import size_as_shown

LEAST_REGION_PIXELS = 16  # a side, of the picture as it is shown
MOST_IMAGES = 20  # of one query
TOO_MANY = f"One search takes {MOST_IMAGES} images at most."


class RefinementError(Exception):
    """What cannot be made into a query; its text is a sentence for the user."""


Asker = User | AnonymousUser | None


def ask_with_file(content: bytes, user: Asker) -> Query:
    """Record a query for a file's bytes and ring for the inference worker."""
    return ask(query_of_file(content, user))


def query_of_file(content: bytes, user: Asker, file_name: str = "") -> Query:
    """An unsaved query, its file stored as imports keep files: without what names the patient.

    What cannot be de-identified, or is no image, has failed, and is not stored.
    """
    digest = hashlib.sha256(content).hexdigest()
    query = Query(sha256=digest, created_by=account(user), file_name=file_name)
    try:
        kept = deidentify(content)
    except RejectedFile as rejected:
        query.status, query.error = QueryStatus.FAILED, rejected.sentence
        return query
    query.group_key = kept.group or digest[:LENGTH]
    query.upload = store_once(query_file_name(kept.content), kept.content, len(kept.content))
    return query


def query_file_name(content: bytes) -> str:
    """Where a query's file is kept."""
    digest = hashlib.sha256(content).hexdigest()
    return f"queries/{digest[:2]}/{digest}"


def ask_with_image(image: Image, user: Asker) -> Query:
    """Record a query for an image of the collection."""
    return ask(
        Query(
            image=image,
            sha256=image.sha256,
            group_key=image.group_key,
            modality=image.modality_id or "",
            preview=image.preview.name,
            created_by=account(user),
        )
    )


def ask_with_several(
    contents: Sequence[bytes],
    user: Asker,
    *,
    names: Sequence[str] = (),
    refused: Sequence[tuple[str, str]] = (),
    beside: Query | None = None,
) -> Query:
    """Record one query for several files, beside the pictures of another query, if one is given.

    A single file is an ordinary query. names: what the uploader calls the files, to be told which of them
    could not be read. refused: name and reason of files that could not even be taken; the page says so.
    Raises RefinementError for more images than one query takes.
    """
    if len(contents) == 1 and beside is None and not refused:
        return ask_with_file(contents[0], user)
    others = [one for one in beside.pictures() if one.status != QueryStatus.FAILED] if beside else []
    if len(others) + len(contents) + len(refused) > MOST_IMAGES:
        raise RefinementError(TOO_MANY)
    with transaction.atomic():
        parts = [
            query_of_file(content, user, names[number] if number < len(names) else "")
            for number, content in enumerate(contents)
        ]
        failed = [
            Query(created_by=account(user), file_name=name, status=QueryStatus.FAILED, error=reason)
            for name, reason in refused
        ]
        for part in [*parts, *failed]:
            part.save()
        whole = Query.objects.create(created_by=account(user))
        whole.parts.set([*others, *parts, *failed])
        ask(whole)
        for part in parts:  # each has a page of its own, but the whole is what somebody waits for
            ring("search.answer_query", str(part.pk))
    return whole


def ask_with_region(query: Query, region: Sequence[float], user: Asker) -> Query:
    """Record a query for a rectangle of another one's picture: left, top, right, bottom, each 0 to 1.

    Raises RefinementError.
    """
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise RefinementError("Draw a rectangle inside the picture.")
    if not query.is_plain:
        raise RefinementError("Choose a part of a single image.")
    region = [round(edge, 4) for edge in region]
    try:
        rows, columns = size_as_shown(query, region)
    except (OSError, ValueError):  # the file is gone, or there has never been one
        raise RefinementError("This search has no picture to choose a part of.") from None
    if min(rows, columns) < LEAST_REGION_PIXELS:
        raise RefinementError(
            f"This part is too small: {columns} × {rows} pixels. "
            f"At least {LEAST_REGION_PIXELS} a side are needed."
        )
    return ask(Query(parent=query, region=region, modality=query.modality, created_by=account(user)))


def ask_refined(query: Query, user: Asker) -> Query:
    """Record a query that is moved by the person's marks on this one's results. Raises RefinementError.

    The marks are copied to the new query: there the person adds to them, or takes some back, and refines
    again. `query` keeps its own: undoing is going back to it. Marks are a person's own; who refines what a
    colleague has refined begins again from the original query.
    """
    if query.status != QueryStatus.ANSWERED or query.has_lost_embeddings():
        raise RefinementError("This search has no results that it could be refined by.")
    marks = Mark.objects.filter(query=query, created_by=account(user))
    if not marks:
        raise RefinementError("Mark at least one result as relevant or not relevant first.")
    with transaction.atomic():
        child = Query.objects.create(
            parent=query,
            created_by=account(user),
            sha256=query.sha256,
            group_key=query.group_key,
            modality=query.modality,
            preview=query.preview.name,
        )
        child.relevant.set([mark.image_id for mark in marks if mark.is_relevant])
        child.irrelevant.set([mark.image_id for mark in marks if not mark.is_relevant])
        Mark.objects.bulk_create(
            Mark(
                query=child,
                image_id=mark.image_id,
                created_by=mark.created_by,
                is_relevant=mark.is_relevant,
            )
            for mark in marks
        )
        return ask(child)


def ask_again(query: Query, user: Asker) -> Query:
    """Record a query about the same pictures, whole or parts of them, for the version in service now."""
    original = query.original
    again = Query(
        image=original.image,
        upload=original.upload.name,
        rendition=original.rendition.name,
        preview=original.preview.name,
        sha256=original.sha256,
        group_key=original.group_key,
        modality=original.modality,
        parent=original.parent,
        region=original.region,
        created_by=account(user),
    )
    with transaction.atomic():
        again.save()
        again.parts.set(original.parts.all())
        return ask(again)


def account(user: Asker) -> User | None:
    return user if isinstance(user, User) else None


def ask(query: Query) -> Query:
    with transaction.atomic():
        query.save()
        ring("search.answer_query", str(query.pk))
    return query
