"""Which implementations of the operators this machine can test."""

import pytest

from dali_mix import native
from dali_mix.native.toolchain import find_compiler


def need_native() -> None:
    """Skip where there is no compiler; where there is one, the native operators must compile and load."""
    failure = native.why_not()
    if failure and find_compiler() is None:
        pytest.skip(f"the native operators cannot be had: {failure}")
    assert failure == ""
