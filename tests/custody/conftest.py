"""These tests use torch."""

from tests.support.autouse import (  # noqa: F401
    _count_only_where_counts_matter,
    _same_random_numbers,
)
