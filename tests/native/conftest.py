"""These tests are of the native operators themselves."""

import pytest

from tests.implementations import need_native


@pytest.fixture(autouse=True)
def operators():
    """Loaded."""
    need_native()
