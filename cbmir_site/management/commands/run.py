"""`make run`: everything that serves a searchable collection, in one command, on one machine."""

import errno
import signal
import socket
import time
import urllib.error
import urllib.request
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, call_command
from rich.console import Console

from cbmir_site import embedded, first_start
from cbmir_site.supervisor import AlreadyRunning, Supervisor, default_services


class Command(BaseCommand):
    help = "Start the database, the broker, the workers and the web page, and fill an empty collection."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--data", type=Path, help="A folder to import instead of the demo collection.")

    def handle(self, *, host: str, port: int, data: Path | None, **options: Any) -> None:
        console = Console(stderr=True, highlight=False)
        _handle_interrupts(_interrupt)  # SIGINT, too: a shell's "&" has it ignored
        if data and not data.is_dir():
            raise CommandError(f"There is no folder {data}.")
        supervisor = Supervisor(default_services(host, port), report=console.print)
        try:
            supervisor.claim()
            with console.status("Preparing the database and the pages"):
                _check_port(host, port)
                call_command("migrate", verbosity=0, interactive=False)
                call_command("collectstatic", verbosity=0, interactive=False)
            first_start.create_first_accounts(console)
            supervisor.start()
            address = f"http://{_reachable(host)}:{port}/"
            _wait_for_page(f"{address}healthz", supervisor)
            console.print(f"The page is up at [bold]{address}[/bold]")
            first_start.fill(console, data, supervisor.watch)
            console.print(
                f"[bold green]Ready:[/bold green] [bold]{address}[/bold]   (Ctrl-C stops everything)"
            )
            while True:
                supervisor.watch()
                time.sleep(0.5)
        except KeyboardInterrupt:
            console.print("\nStopping.")
        except AlreadyRunning:
            raise CommandError(f"It already runs on the data directory {embedded.data_dir()}.") from None
        finally:
            _handle_interrupts(signal.SIG_IGN)  # a second Ctrl-C would leave the rest running
            supervisor.stop()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _handle_interrupts(handler: Callable[..., None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _check_port(host: str, port: int, seconds: float = 3) -> None:
    """What was ended just now may hold the port a moment longer."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise CommandError(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
                if time.monotonic() > deadline:
                    raise CommandError(
                        f"Port {port} is taken; choose another one: make run PORT=8080"
                    ) from error
        time.sleep(0.1)


def _reachable(host: str) -> str:
    """An address of this machine under which a server that listens on `host` answers."""
    return "localhost" if host in ("127.0.0.1", "0.0.0.0") else host


def _wait_for_page(url: str, supervisor: Supervisor, seconds: float = 60) -> None:
    """Wait for any answer: a refused host name or a redirect to HTTPS comes from a running server too."""
    page = urllib.request.Request(url, headers={"X-Forwarded-Proto": "https"})
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(page, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            supervisor.watch()
            time.sleep(0.1)
    raise CommandError(f"The web server did not start; its log is {supervisor.log_dir / 'web.log'}.")
