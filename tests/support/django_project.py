"""Django, set up for tests: its settings are the process's, and can be made only once."""

from __future__ import annotations

import django
from django.conf import settings


def set_up() -> None:
    """Makes Django ready, if it is not."""
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"], MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"], LOGGING_CONFIG=None
        )
        django.setup()
