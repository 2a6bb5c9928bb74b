"""Command-line tools: ``python -m dali_mix.tools.NAME``."""
