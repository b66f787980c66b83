#!/usr/bin/env python
"""Django's command line, on the embedded servers unless DATABASE_URL and REDIS_URL name others."""

import os
import signal
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cbmir_site.settings")
    from cbmir_site import embedded

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ordinary end: the server is left, too
    embedded.ensure_environment()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
