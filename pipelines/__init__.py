"""Ready-made pipelines: each a recipe that composes dali_mix, to be used or copied."""
