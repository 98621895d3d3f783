"""What all unit tests share."""

from __future__ import annotations

from hypothesis import settings

# Examples are not timed: a busy machine would fail them.
settings.register_profile("podwire", deadline=None)
settings.load_profile("podwire")
