"""The direction of imports: ingest <- ml <- search, the site wires them, mathematics knows no Django."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "ingest": {"ml", "search", "cbmir_site"},
    "ml": {"search", "cbmir_site"},
    "search": {"cbmir_site"},
}
WITHOUT_DJANGO = [
    *("ml/network.py", "ml/preprocess.py", "ml/training.py", "ml/schedule.py", "ml/recipes.py"),
    *("ml/inference.py", "ml/engines.py", "ml/checkpoint.py", "ml/projection.py", "ml/protocol.py"),
    *(
        "ml/framing.py",
        "ml/compiled.py",
        "ml/augmentation.py",
        "ml/objective.py",
        "ml/calibration.py",
        "ml/labelled_folder.py",
        "ml/metrics.py",
    ),
    *("ml/comparing.py", "ml/baselines/networks.py", "ml/baselines/multi_instance.py"),
    *("ml/baselines/handcrafted.py", "ml/baselines/relevant_blocks.py", "ml/baselines/autoregressive.py"),
    *("ingest/reading.py", "ingest/dicom.py", "ingest/decoders.py", "ingest/windowing.py"),
    *("ingest/pictures.py", "ingest/renditions.py", "ingest/image_file.py", "ingest/masking.py"),
    *("ingest/slices.py", "ingest/burned_in.py", "ingest/picture_notes.py", "ingest/tiff_notes.py"),
    *("ingest/mending.py", "ingest/functional_groups.py", "ingest/colours.py"),
]


def imported_packages(path: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f): imported_packages(f) & FORBIDDEN[package] for f in files}
    assert {f: names for f, names in wrong.items() if names} == {}


@pytest.mark.parametrize("name", WITHOUT_DJANGO)
def test_mathematics_and_reading_know_no_django(name: str) -> None:
    assert "django" not in imported_packages(ROOT / name)


@pytest.mark.parametrize("package", ["torch", "numba", "boto3"])
def test_web_processes_never_import_what_is_slow_to_import(package: str) -> None:
    script = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'cbmir_site.settings';"
        "import django; django.setup();"
        "import cbmir_site.urls, cbmir_site.wsgi, ingest.tasks, ml.tasks, search.tasks;"
        f"sys.exit('{package}' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
