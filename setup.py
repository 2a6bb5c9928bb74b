"""What pyproject.toml cannot say: every package that is found, and ``pipelines/`` as one of them."""

from setuptools import find_packages, setup

# In the source tree it lies at the root; installed, it is never a top-level package: a project has one of its own.
setup(packages=[*find_packages(include=["dali_mix", "dali_mix.*"]), "dali_mix.pipelines"])
