"""Starting trainings and activating versions: admin, REST and commands, by role."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from ingest.models import Dataset
from ml.models import ModelVersion, RunStatus, TrainingRun, VersionStatus
from search.indexing import index_next_batch, prepare_versions
from tests.factories import make_image, make_model_version

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]
ADMIN, API = "/admin/ml", "/api/v1"
EVERYBODY = ["admin", "curator", "clinician", "integration", "nobody", None]
FORM = {"recipe": "default", "epochs": "2", "device": "cpu"}


@pytest.fixture
def labelled(db: None) -> None:
    make_image(1, "brain")
    make_image(2, "chest")


@pytest.mark.parametrize("role", EVERYBODY)
def test_starting_from_the_admin(role: str | None, client_of: ClientOf, labelled: None) -> None:
    response = client_of(role).post(f"{ADMIN}/trainingrun/add/", FORM)
    run = TrainingRun.objects.first()
    if role != "admin":
        assert (response.status_code in (302, 403), run) == (True, None)
        return
    assert run is not None
    assert response.url == f"{ADMIN}/trainingrun/{run.pk}/change/"  # type: ignore[attr-defined]
    assert (run.status, run.epochs, str(run.created_by)[:5]) == (RunStatus.QUEUED, 2, "admin")


def test_the_admin_tells_what_cannot_be_trained(client_of: ClientOf) -> None:
    make_image(1, "brain")
    response = client_of("admin").post(f"{ADMIN}/trainingrun/add/", FORM)
    assert "All images labelled for training show one organ (brain)" in response.content.decode()
    assert not TrainingRun.objects.exists()


@pytest.mark.parametrize("role", EVERYBODY)
def test_the_progress_of_a_run_by_role(role: str | None, client_of: ClientOf) -> None:
    run = TrainingRun.objects.create(status=RunStatus.FAILED, error="The disk is full.")
    response = client_of(role).get(f"{ADMIN}/trainingrun/{run.pk}/progress/")
    assert (response.status_code == 200) == (role == "admin")
    assert ("The disk is full." in response.content.decode()) == (role == "admin")


def test_an_epoch_is_shown_with_loss_and_accuracy(client_of: ClientOf) -> None:
    history = [
        {"epoch": 1, "train_loss": 2.345, "train_accuracy": 0.5, "val_loss": 1.5, "val_accuracy": 0.625}
    ]
    run = TrainingRun.objects.create(status=RunStatus.RUNNING, history=history, progress={"epoch": 1})
    page = client_of("admin").get(f"{ADMIN}/trainingrun/{run.pk}/change/").content.decode()
    assert "2.345" in page
    assert "62.5" in page


@pytest.mark.parametrize("role", EVERYBODY)
def test_cancelling_from_the_admin(role: str | None, client_of: ClientOf) -> None:
    run = TrainingRun.objects.create()
    client_of(role).post(f"{ADMIN}/trainingrun/{run.pk}/cancel/")
    run.refresh_from_db()
    assert (run.status == RunStatus.CANCELLED) == (role == "admin")


def test_activating_and_bringing_back_from_the_admin(
    client_of: ClientOf, model_version: ModelVersion
) -> None:
    client, later = client_of("admin"), make_model_version(VersionStatus.TRAINED, seed=1)
    for wanted, other in ((later, model_version), (model_version, later)):
        form = {"action": "put_into_service", "_selected_action": [wanted.pk]}
        response = client.post(f"{ADMIN}/modelversion/", form, follow=True)
        assert "goes into service as soon as the collection is indexed" in response.content.decode().lower()
        index_next_batch()
        prepare_versions()
        wanted.refresh_from_db()
        other.refresh_from_db()
        assert (wanted.status, other.status) == (VersionStatus.ACTIVE, VersionStatus.RETIRED)


@pytest.mark.parametrize("role", EVERYBODY)
def test_rest_by_role(
    role: str | None, client_of: ClientOf, labelled: None, model_version: ModelVersion
) -> None:
    client, is_admin = client_of(role), role == "admin"
    refused = 401 if role is None else 403
    run = TrainingRun.objects.create()
    assert client.get(f"{API}/training-runs/").status_code == (200 if is_admin else refused)
    assert client.get(f"{API}/training-runs/{run.pk}/").status_code == (200 if is_admin else refused)
    assert client.post(f"{API}/training-runs/{run.pk}/cancel/").status_code == (200 if is_admin else refused)
    assert client.post(f"{API}/training-runs/", {}).status_code == (201 if is_admin else refused)
    may_search = role not in ("nobody", None)
    assert client.get(f"{API}/model-versions/").status_code == (200 if may_search else refused)
    activated = client.post(f"{API}/model-versions/{model_version.pk}/activate/")
    assert activated.status_code == (202 if is_admin else refused)


@pytest.mark.parametrize(
    "data", [{"recipe": "none"}, {"epochs": 0}, {"epochs": -1}, {"datasets": ["nowhere"]}, {"device": "tpu"}]
)
def test_rest_refuses_what_makes_no_sense(data: Any, client_of: ClientOf, labelled: None) -> None:
    response = client_of("admin").post(f"{API}/training-runs/", data, content_type="application/json")
    assert (response.status_code, list(response.json())) == (400, list(data))


def test_rest_tells_what_cannot_be_trained(client_of: ClientOf) -> None:
    response = client_of("admin").post(f"{API}/training-runs/", {})
    assert response.status_code == 400
    assert "No image is labelled for training" in response.content.decode()


def test_a_run_cancelled_twice_is_409(client_of: ClientOf) -> None:
    run, client = TrainingRun.objects.create(), client_of("admin")
    assert [client.post(f"{API}/training-runs/{run.pk}/cancel/").status_code for _ in range(2)] == [200, 409]


def command(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train_model", "--dataset", "nowhere"], "There is no data set named nowhere"),
        (["train_model", "--recipe", "none"], "invalid choice"),
        (["train_model"], "No image is labelled for training"),
        (["train_model", "--resume", "99"], "99"),
        (["activate_model", "v99"], "There is no model version v99"),
        (["activate_model", "first"], "There is no model version first"),
    ],
)
def test_commands_tell_what_is_wrong(arguments: list[str], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        command(*arguments)


def test_activating_an_active_version_says_so(model_version: ModelVersion) -> None:
    assert command("activate_model", f"v{model_version.pk}") == f"v{model_version.pk} is in service.\n"


def test_activating_without_a_worker_says_what_is_missing(model_version: ModelVersion) -> None:
    later = make_model_version(VersionStatus.TRAINED, seed=1)
    assert "No indexing worker is there" in command("activate_model", str(later.pk))


def test_datasets_of_a_run_are_kept(client_of: ClientOf, labelled: None) -> None:
    name = Dataset.objects.get().name
    response = client_of("admin").post(
        f"{API}/training-runs/", {"datasets": [name]}, content_type="application/json"
    )
    assert response.json()["datasets"] == [name]
