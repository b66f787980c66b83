"""Relevance feedback: what people say of results, and what they have said."""

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser, User

from ingest.models import Image
from search.addresses import filters_of
from search.models import Mark, Query


@dataclass(frozen=True)
class Marks:
    """A person's marks on a query's results, as image ids."""

    relevant: frozenset[int]
    irrelevant: frozenset[int]
    are_used: bool  # the query is a refinement by exactly these

    @property
    def any(self) -> bool:
        return bool(self.relevant or self.irrelevant)


def marks_of(query: Query, user: User | AnonymousUser) -> Marks:
    """Those of one query; a refinement begins with the marks that it was made by."""
    given = dict(Mark.objects.filter(query=query, created_by=user.pk).values_list("image_id", "is_relevant"))
    relevant = frozenset(image for image, is_relevant in given.items() if is_relevant)
    irrelevant = frozenset(given) - relevant
    used = query.is_refined and (relevant, irrelevant) == (
        frozenset(query.relevant.values_list("pk", flat=True)),
        frozenset(query.irrelevant.values_list("pk", flat=True)),
    )
    return Marks(relevant, irrelevant, used)


def mark(query: Query, image: Image, user: User | AnonymousUser, is_relevant: bool | None) -> None:
    """Keep a person's word on a result; None takes it back."""
    if is_relevant is None:
        Mark.objects.filter(query=query, image=image, created_by_id=user.pk).delete()
    else:
        Mark.objects.update_or_create(
            query=query, image=image, created_by_id=user.pk, defaults={"is_relevant": is_relevant}
        )


def marking_context(query: Query, user: User | AnonymousUser, page: str) -> dict[str, Any]:
    """What the marks of result cards and the bar above them show. page: that of the results they are on."""
    return {"marks": marks_of(query, user), "page_address": page, "filters": filters_of(page)}
