"""The settings of a run: timm's flags, recipes and YAML files, checked before anything is built."""

from dali_mix.train.settings.parse import parse_args
from dali_mix.train.settings.parser import build_parser
from dali_mix.train.settings.recipes import load_recipe, recipe_names

__all__ = ["build_parser", "load_recipe", "parse_args", "recipe_names"]
