"""Every test of the operators runs on both implementations."""

import pytest

from dali_mix import native


@pytest.fixture(autouse=True, params=["native", "portable"], scope="module")
def implementation(request):
    """The implementation that graphs of the test are made of."""
    if request.param == "native" and native.why_not():
        pytest.skip(f"the native operators cannot be had: {native.why_not()}")
    with native.using("on" if request.param == "native" else "off"):
        yield request.param
