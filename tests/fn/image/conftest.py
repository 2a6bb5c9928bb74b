"""Most tests here are of one implementation, or of none; those of both ask for ``implementation``."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def on_both():
    """In the place of the one for mixing."""
