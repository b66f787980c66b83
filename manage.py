#!/usr/bin/env python
"""Django's command line, on the embedded servers unless DATABASE_URL and REDIS_URL name others."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cbmir_site.settings")
    from cbmir_site import embedded

    embedded.ensure_environment()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
