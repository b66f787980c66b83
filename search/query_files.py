"""Files of queries that are stored as they came, from before these were de-identified."""

from collections.abc import Iterator

from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Concat, Substr

from ingest.catching_up import Outcome
from ingest.deidentifying import deidentify
from ingest.image_file import RejectedFile
from ingest.storing import store_once
from search.asking import query_file_name
from search.models import Query, QueryStatus

AS_IT_CAME = Concat(Value("queries/"), Substr("sha256", 1, 2), Value("/"), F("sha256"))


def query_files_as_they_came() -> Iterator[str]:
    """The names of files that are kept under the digest with which they came, each once."""
    names = Query.objects.filter(upload=AS_IT_CAME).order_by("upload").values_list("upload", flat=True)
    yield from names.distinct().iterator()


def deidentify_query_file(name: str, *, only_check: bool = False) -> Outcome:
    """Keep the file as it would be kept if it came in today; what is no image goes.

    Queries that wait are left to the next time: a worker may be reading the file.
    """
    queries = Query.objects.filter(upload=name)
    if not default_storage.exists(name) or queries.filter(status=QueryStatus.WAITING).exists():
        return Outcome()
    with default_storage.open(name) as file:
        content = file.read()
    try:
        kept = deidentify(content).content
    except RejectedFile:
        kept = b""
    if kept == content or only_check:
        return Outcome(clean=1) if kept == content else Outcome(done=1)
    with transaction.atomic():  # stopped in between, the file is gone: nobody would look for it again
        queries.update(upload=store_once(query_file_name(kept), kept, len(kept)) if kept else "")
        default_storage.delete(name)
    return Outcome(done=1)
