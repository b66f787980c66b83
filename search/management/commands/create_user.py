"""An account with one role."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management import BaseCommand, CommandError

from search.roles import ROLES, TOKEN_ONLY_ROLES, create_account


class Command(BaseCommand):
    help = "Create an account. Its password is made here and shown once, or read from standard input."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--role", required=True, choices=sorted(ROLES))
        parser.add_argument("--email", default="")
        parser.add_argument(
            "--password-stdin", action="store_true", help="Read the password from standard input."
        )

    def handle(self, *, name: str, role: str, email: str, password_stdin: bool, **options: Any) -> None:
        password = sys.stdin.readline().rstrip("\r\n") if password_stdin else None
        if password == "":
            raise CommandError("Standard input held no password.")
        if password and role in TOKEN_ONLY_ROLES:
            raise CommandError(
                f"An account of the role {role} has no password; give it a token with create_token."
            )
        try:
            _user, made = create_account(name, role, password, email)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        if role in TOKEN_ONLY_ROLES:
            self.stdout.write(f"{name} ({role}) is created. Its token: manage.py create_token {name}")
        elif password_stdin:
            self.stdout.write(f"{name} ({role}) is created.")
        else:
            self.stdout.write(f"{name} ({role}) is created. Password, shown only once: {made}")
