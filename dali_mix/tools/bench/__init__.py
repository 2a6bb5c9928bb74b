"""Benchmarks: ``python -m dali_mix.tools.bench loader --data-dir DIR``."""
