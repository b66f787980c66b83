"""What a search asks of the database stays within what a sharded one answers shard by shard.

The rules are those of docs/operations.md, "Sharding": an embedding lies with its image, so the two are joined
on that; small tables are on every node; nothing else is joined, and nothing needs rows of several shards
before the last sort.
"""

import re
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from ingest.models import Image
from ml.models import ModelVersion, VersionStatus
from search import filtering, ranking, retrieval
from search.models import Query, VersionIndex
from search.options import Collapse, Scope, SearchOptions
from search.retrieval import search

DISTRIBUTED = {"search_embedding", "ingest_image"}
PART = re.compile(
    r"(\w+)(?: \([\w, ]+\))? AS MATERIALIZED \("
)  # of a statement: its rows are sent to every node
ON_EVERY_NODE = {"ingest_dataset", "ingest_organclass", "ingest_modality", "ml_modelversion"}
TOGETHER = '"search_embedding"."image_id" = "ingest_image"."id"'
JOIN = re.compile(r'JOIN "(\w+)"(?: T?\w+)? ON \(([^()]*)\)')
JOIN_OF_PARTS = re.compile(r"(?<! CROSS) JOIN (\w+) USING \(id\)| CROSS JOIN (\w+)")
ACROSS_SHARDS = re.compile(r"\b(DISTINCT|OFFSET|OVER|UNION|EXISTS|WITH|HAVING|FOR UPDATE)\b")

ASKED = [
    *[SearchOptions(scope=scope) for scope in Scope],
    SearchOptions(organ="brain", modality="CT", dataset="test"),
    SearchOptions(view="PA", sex="F", age="40-59"),
    SearchOptions(words="chest -supine", own=True),
    SearchOptions(collapse=Collapse.PATIENT),
    SearchOptions(collapse=Collapse.NONE),
]


@pytest.fixture
def model_version(db: None) -> ModelVersion:
    """One without a network: nothing is described here."""
    return ModelVersion.objects.create(recipe="default", checkpoint="none", status=VersionStatus.ACTIVE)


@pytest.fixture(params=["scanned", "indexed"])
def way(request: pytest.FixtureRequest, model_version: ModelVersion, monkeypatch: Any) -> None:
    """Both ways to find candidates, each time anew."""
    monkeypatch.setattr(filtering, "recalled", lambda key: None)
    monkeypatch.setattr(retrieval, "recalled", lambda key: None)
    if request.param == "indexed":
        for module in (ranking, retrieval, filtering):
            monkeypatch.setattr(module, "EXACT_SCAN_ROWS", 0)
        VersionIndex.objects.create(model_version=model_version, has_ivfflat=True, blend_weight=0.1)


def statements_of(query: Query, options: SearchOptions, **page: int) -> list[str]:
    with CaptureQueriesContext(connection) as asked:
        search(query, options, **page)
    return [re.sub(r"'\[[^]']*\]'", "'[]'", one["sql"]) for one in asked.captured_queries]


def is_answered_by_shards(sql: str) -> bool:
    """Whether each shard answers for itself, or for each part of a WITH in turn; true also of what is about
    tables that are not distributed."""
    if not sql.lstrip().startswith("WITH "):
        return is_one_answered_by_shards(sql, set())
    names, parts, rest = set[str](), list[str](), sql
    while found := PART.search(rest):
        end = closing(rest, found.end())
        names.add(found[1])
        parts.append(rest[found.end() : end])
        rest = rest[end + 1 :]
    return all(is_one_answered_by_shards(part, names) for part in [*parts, rest])


def closing(sql: str, start: int) -> int:
    """Where the parenthesis ends that was opened before `start`."""
    depth = 1
    for place in range(start, len(sql)):
        depth += {"(": 1, ")": -1}.get(sql[place], 0)
        if not depth:
            return place
    raise ValueError(sql)


def is_one_answered_by_shards(sql: str, parts: set[str]) -> bool:
    """`parts` are names of rows that are on every node."""
    tables = set(re.findall(r'(?:FROM|JOIN) "(\w+)"', sql))
    if not tables & DISTRIBUTED:
        return True
    joins_well = all(
        table in ON_EVERY_NODE or (table in DISTRIBUTED and condition == TOGETHER)
        for table, condition in JOIN.findall(sql)
    )
    with_parts = [one or other for one, other in JOIN_OF_PARTS.findall(sql)]
    return (
        tables <= DISTRIBUTED | ON_EVERY_NODE
        and set(with_parts) <= parts
        and sql.count("SELECT") == 1
        and sql.count(" JOIN ") == len(JOIN.findall(sql)) + len(with_parts)
        and joins_well
        and not ACROSS_SHARDS.search(sql)
    )


@pytest.mark.parametrize("options", ASKED, ids=range(len(ASKED)))
@pytest.mark.usefixtures("way")
def test_every_statement_of_a_search_is_answered_by_shards(
    collection: list[Image], query: Query, options: SearchOptions
) -> None:
    tags = {"PatientSex": "F", "PatientAge": "045Y", "ViewPosition": "PA", "SeriesDescription": "chest"}
    Image.objects.update(tags=tags, series_key="one")
    query.see_newest()
    found = statements_of(query, options, page=2, page_size=2)
    assert any("fc1" in sql for sql in found)
    assert [sql for sql in found if not is_answered_by_shards(sql)] == []


@pytest.mark.usefixtures("way")
def test_so_is_every_statement_of_a_search_with_several_images(collection: list[Image], query: Query) -> None:
    query.parts.set([Query.objects.create(image=image, sha256=image.sha256) for image in collection[:2]])
    found = statements_of(query, SearchOptions(series_of=collection[0].pk))
    assert [sql for sql in found if not is_answered_by_shards(sql)] == []


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT 1 FROM "search_embedding" WHERE "image_id" IN (SELECT "id" FROM "ingest_image")',
        'SELECT 1 FROM "search_embedding" JOIN "search_mark" ON ("search_mark"."image_id" = "image_id")',
        'SELECT 1 FROM "search_embedding" INNER JOIN "ingest_image" ON ("a"."sha256" = "ingest_image"."id")',
        'SELECT DISTINCT "organ_id" FROM "search_embedding"',
        'SELECT "id" FROM "ingest_image" ORDER BY "id" LIMIT 5 OFFSET 5',
        'WITH a AS MATERIALIZED (SELECT DISTINCT "id" FROM "ingest_image") SELECT id FROM a',
        'WITH a AS MATERIALIZED (SELECT 1) SELECT id FROM "ingest_image" JOIN b USING (id)',
    ],
)
def test_what_shards_do_not_answer_alone_is_noticed(sql: str) -> None:
    assert not is_answered_by_shards(sql)
