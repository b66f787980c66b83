"""Signing in and out, and the commands that make accounts and tokens."""

import io
from collections.abc import Callable
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client

from search.roles import ROLES, STAFF_ROLES, TOKEN_ONLY_ROLES, create_account, create_roles

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_signing_in_leads_to_the_page_that_was_asked_for(user_of: Callable[[str], User]) -> None:
    user, client = user_of("clinician"), Client()
    response = client.post(
        "/accounts/login/?next=/status/",
        {"username": user.username, "password": "a long enough password", "next": "/status/"},
    )
    assert response.url == "/status/"  # type: ignore[attr-defined]
    assert client.post("/accounts/logout/").url == "/accounts/login/"  # type: ignore[attr-defined]
    assert client.get("/").status_code == 302


def test_a_wrong_password_is_answered_on_the_page(user_of: Callable[[str], User]) -> None:
    response = Client().post("/accounts/login/", {"username": user_of("clinician").username, "password": "x"})
    assert response.status_code == 200
    assert 'role="alert"' in response.content.decode()


def test_signing_out_needs_a_post(client_of: Callable[[str | None], Client]) -> None:
    assert client_of("clinician").get("/accounts/logout/").status_code == 405


def test_a_part_of_a_page_whose_session_ended_reloads_the_page() -> None:
    response = Client().get("/accounts/login/", headers={"HX-Request": "true"})
    assert response["HX-Refresh"] == "true"


def test_a_foreign_site_cannot_post(user_of: Callable[[str], User]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user_of("clinician"))
    assert client.post("/queries/").status_code == 403


@pytest.mark.parametrize("role", sorted(ROLES))
def test_create_account_gives_the_role(role: str) -> None:
    create_roles()
    user, password = create_account("somebody", role)
    assert [group.name for group in user.groups.all()] == [role]
    assert user.is_staff == (role in STAFF_ROLES)
    assert bool(password) == user.has_usable_password() == (role not in TOKEN_ONLY_ROLES)
    if password:
        assert user.check_password(password)


def test_create_account_refuses_a_weak_password_and_a_taken_name() -> None:
    create_roles()
    with pytest.raises(ValidationError):
        create_account("somebody", "clinician", "password")
    create_account("somebody", "clinician")
    with pytest.raises(ValidationError):
        create_account("somebody", "clinician")


def test_create_user_prints_the_password_once() -> None:
    create_roles()
    said = run("create_user", "anna", "--role", "curator", "--email", "anna@example.org")
    user = User.objects.get(username="anna")
    assert user.check_password(said.split()[-1])
    assert user.email == "anna@example.org"


def test_create_user_takes_the_password_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    create_roles()
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse battery\n"))
    said = run("create_user", "anna", "--role", "clinician", "--password-stdin")
    assert "correct" not in said
    assert User.objects.get(username="anna").check_password("correct horse battery")


@pytest.mark.parametrize("role", ["clinician", "integration"])
def test_create_user_refuses_a_name_that_exists(role: str) -> None:
    create_roles()
    create_account("anna", "clinician")
    with pytest.raises(CommandError, match="already exists"):
        run("create_user", "anna", "--role", role)


def test_create_user_refuses_an_unknown_role() -> None:
    with pytest.raises(CommandError, match="invalid choice"):
        run("create_user", "anna", "--role", "king")


def test_create_token_opens_the_api() -> None:
    create_roles()
    create_account("robot", "integration")
    token = run("create_token", "robot").strip()
    headers = {"Authorization": f"Token {token}"}
    assert Client().get("/api/v1/schema/", headers=headers).status_code == 200
    assert Client().get("/api/v1/schema/").status_code == 401


def test_create_token_needs_an_account() -> None:
    with pytest.raises(CommandError, match="no active account"):
        run("create_token", "robot")


def test_an_admin_cannot_become_more_than_an_admin(
    client_of: Callable[[str | None], Client], user_of: Callable[[str], User]
) -> None:
    client, colleague = client_of("admin"), user_of("clinician")
    form = {"username": colleague.username, "is_active": "on", "is_superuser": "on", "user_permissions": "1"}
    form |= {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    response = client.post(f"/admin/auth/user/{colleague.pk}/change/", form)
    colleague.refresh_from_db()
    assert response.status_code == 302
    assert (colleague.is_superuser, colleague.user_permissions.count()) == (False, 0)


def test_an_admin_cannot_change_a_superuser(client_of: Callable[[str | None], Client]) -> None:
    superuser = User.objects.create_superuser("root", password="a long enough password")
    client = client_of("admin")
    form = {"password1": "another long password", "password2": "another long password"}
    assert client.post(f"/admin/auth/user/{superuser.pk}/password/", form).status_code == 403
    assert client.post(f"/admin/auth/user/{superuser.pk}/change/", {"username": "mine"}).status_code == 403
    superuser.refresh_from_db()
    assert (superuser.username, superuser.check_password("a long enough password")) == ("root", True)
