"""What is said of what cannot be told."""

from __future__ import annotations

from toysup.checks import InputError


class Untold(InputError):
    """What something does cannot be told."""
