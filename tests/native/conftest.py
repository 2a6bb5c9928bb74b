"""These tests are of the native operators themselves."""

import pytest

from dali_mix import native


@pytest.fixture(autouse=True, scope="session")
def operators():
    """Loaded; skipped where they cannot be had."""
    if native.why_not():
        pytest.skip(f"the native operators cannot be had: {native.why_not()}")
