"""Every test of the operators runs on both implementations."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def on_both(implementation):
    """See ``tests/conftest.py``."""
