"""The documents say what is there: variables, commands, links, addresses of the REST API."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from django.core.management import get_commands
from django.urls import Resolver404, resolve

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OUR_APPS = {"cbmir_site", "ingest", "ml", "search"}
READ = re.compile(r"""(?:env_\w+\(|environ\.get\(|environ\[)"([A-Z_]+)\"""")
A_UUID = "00000000-0000-0000-0000-000000000000"


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_column(text: str) -> set[str]:
    return set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE))


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)}


def links_of(page: Path) -> Iterable[str]:
    without_code = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", without_code)
    return [link for link in links if not link.startswith(("http://", "https://"))]


def api_paths() -> list[str]:
    return sorted(set(re.findall(r"/api/v1/[\w/{}-]*|/healthz", text_of("docs/api.md"))))


def test_every_environment_variable_is_documented() -> None:
    read = set(READ.findall(text_of("cbmir_site/settings.py") + text_of("cbmir_site/embedded.py")))
    documented = first_column(section(text_of("docs/operations.md"), "Environment variables"))
    assert {"DATABASE_URL", "CBMIR_DATA_DIR", "CBMIR_SECRET_KEY"} <= read
    assert documented == read


def test_every_variable_of_the_compose_file_is_documented() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", text_of("docker-compose.yml")))
    documented = first_column(section(text_of("docs/operations.md"), "A server: Docker compose"))
    assert documented == used


def test_every_command_is_named_in_the_readme() -> None:
    readme = section(text_of("README.md"), "Ways in")
    ours = {name for name, app in get_commands().items() if app in OUR_APPS}
    named = set(re.findall(r"^\| `([a-z_]+)", readme, re.MULTILINE))
    assert {"run", "import_images"} <= ours
    assert ours - named == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", api_paths())
def test_rest_paths_of_the_docs_resolve(path: str) -> None:
    for number in ("1", A_UUID):
        try:
            resolve(path.replace("{id}", number))
        except Resolver404:
            continue
        return
    pytest.fail(f"{path} is no address of the product")


def test_every_rest_path_is_in_the_docs() -> None:
    from cbmir_site.api_urls import router

    patterns = {str(url.pattern) for url in router.urls}
    plain = {p for p in patterns if "format" not in p and "drf_format_suffix" not in p}
    paths = {re.sub(r"\(\?P<\w+>[^)]+\)", "{id}", p).strip("^$") for p in plain}
    assert "queries/" in paths
    assert {f"/api/v1/{path}" for path in paths if path} - set(api_paths()) == set()
