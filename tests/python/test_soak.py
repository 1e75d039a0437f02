"""A short soak; soak.py runs for as long as it is told."""

from soak import test_a_mixed_load_leaves_nothing_behind  # noqa: F401
