"""A token for the REST API."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, CommandError
from knox.models import AuthToken


class Command(BaseCommand):
    help = "Make a token for an account and print it, this once. Header: Authorization: Token <token>"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")

    def handle(self, *, name: str, **options: Any) -> None:
        user = get_user_model().objects.filter(username=name, is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active account {name}.")
        _stored, token = AuthToken.objects.create(user)
        self.stdout.write(token)
