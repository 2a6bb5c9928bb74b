"""``python -m dali_mix.tools.recipes``: the page of recipes, docs/recipes.md."""

from __future__ import annotations

from dali_mix.train.settings import load_recipe, recipe_names


def recipes_page() -> str:
    """``docs/recipes.md``: all recipes in Markdown."""
    lines = [
        "# Recipes",
        "",
        "`--recipe NAME` sets a recipe's flags; `--config` and the command line override them. The flags are in",
        "`dali_mix/train/settings/recipes/NAME.yaml`. **Top-1 is what the source reports, it was not measured here**;",
        "batch is images per update over all GPUs. Written by `python -m dali_mix.tools.recipes`.",
        "",
        "| recipe | top-1, reported | batch | GPUs |",
        "|---|---|---|---|",
    ]
    recipes = {name: load_recipe(name)[0] for name in recipe_names()}
    for name, about in recipes.items():
        lines.append(f"| [`{name}`](#{name}) | {about['expected']} | {about['batch']} | {about['gpus']} |")
    for name, about in recipes.items():
        lines += ["", f"## {name}", "", f"{about['title']}. {about['paper']}.", "", f"    {about['command']}", ""]
        lines.append(f"Source: {about['source']}.")
        if about["chosen"]:
            lines += ["", "Chosen here, not from the source:", "", *(f"- {item}" for item in about["chosen"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(recipes_page(), end="")
