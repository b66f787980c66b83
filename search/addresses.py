"""Where the page of a query is, and the way back to what somebody was looking at there."""

from urllib.parse import urlsplit

from django.http import QueryDict
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from search.models import Query

OF_ONE_PAGE = ("page", "series")  # what makes no sense among the results of another query


def address_of(query: Query) -> str:
    return reverse("search:query_detail", args=[query.pk])


def way_back(came_from: str, query: Query) -> str:
    """The page of results that somebody says they came from; the first, where it is none of the query's."""
    address = address_of(query)
    is_ours = url_has_allowed_host_and_scheme(came_from, allowed_hosts=None)
    return came_from if is_ours and urlsplit(came_from).path == address else address


def filters_of(page: str) -> str:
    """The query string of a page of results, "?" before it, as another query's results begin with it."""
    asked = QueryDict(urlsplit(page).query, mutable=True)
    for name in OF_ONE_PAGE:
        asked.pop(name, None)
    return f"?{asked.urlencode()}" if asked else ""
