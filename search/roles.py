"""The four roles and what each may do. Views ask for permissions, never for roles."""

import secrets
from typing import Any

from django.contrib.auth.models import Group, Permission, User
from django.contrib.auth.password_validation import validate_password
from django.db import transaction

SEARCH = ["search.add_query", "search.view_query", "search.add_mark", "ingest.view_image"]
CURATE = [
    *SEARCH,
    "ingest.add_uploadbatch",
    "ingest.view_uploadbatch",
    "ingest.view_uploadedfile",
    "ingest.change_image",
    "ingest.view_labeledit",
    "ingest.add_dataset",
    "ingest.view_dataset",
    "ingest.change_dataset",
    "ingest.add_organclass",
    "ingest.view_organclass",
    "ingest.change_organclass",
    "ingest.view_organname",
    "ingest.add_organname",
    "ingest.change_organname",
    "ingest.view_modality",
    "ingest.view_quarantinedfile",
    "ingest.change_quarantinedfile",
    "search.view_mark",
]
TRAIN = [
    *CURATE,
    "ingest.keep_identifiers",
    "ingest.view_watchedfolder",
    "ingest.add_watchedfolder",
    "ingest.change_watchedfolder",
    "ingest.delete_watchedfolder",
    "ml.add_trainingrun",
    "ml.view_trainingrun",
    "ml.change_trainingrun",
    "ml.view_modelversion",
    "ml.activate_modelversion",
    "ml.view_evaluation",
    "ml.view_comparison",
    "search.view_embedding",
    "search.view_versionindex",
    "search.change_versionindex",
    "search.view_recallprobe",
    "auth.view_user",
    "auth.add_user",
    "auth.change_user",
]
ROLES = {"clinician": SEARCH, "curator": CURATE, "admin": TRAIN, "integration": CURATE}
STAFF_ROLES = {"curator", "admin"}  # may sign in to the Django admin
TOKEN_ONLY_ROLES = {"integration"}  # no password: the REST API alone


def create_roles(**_: Any) -> None:
    """Give each role's group exactly its permissions; runs after every migration."""
    known = {
        f"{p.content_type.app_label}.{p.codename}": p
        for p in Permission.objects.select_related("content_type")
    }
    for role, permissions in ROLES.items():
        group, _created = Group.objects.get_or_create(name=role)
        group.permissions.set([known[name] for name in permissions if name in known])


def create_account(name: str, role: str, password: str | None = None, email: str = "") -> tuple[User, str]:
    """An account with one role, and its password: the given one, or a strong one made here.

    Roles that use the REST API alone get no password (""). Raises ValidationError for a name that is taken
    or not allowed and for a weak password.
    """
    user = User(username=name, email=email, is_staff=role in STAFF_ROLES)
    user.clean_fields(exclude=["password"])
    user.validate_unique()
    if role in TOKEN_ONLY_ROLES:
        password = ""
        user.set_unusable_password()
    else:
        password = password or secrets.token_urlsafe(15)
        validate_password(password, user)
        user.set_password(password)
    with transaction.atomic():
        user.save()
        user.groups.add(Group.objects.get(name=role))
    return user, password
