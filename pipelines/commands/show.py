"""``wsi-hr show``: the settings as they are resolved."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.options import Assignments, Recipe
from pipelines.sentences import say
from pipelines.terminal import stdout


def show(
    recipe: Recipe = None,
    assignments: Assignments = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the shipped recipes.")] = False,
) -> None:
    """Print the resolved settings, as YAML that --recipe takes back."""
    from pipelines.settings import recipe_names, resolve
    from wsi_hr.config import dump_config

    console = stdout()

    if recipes:
        say(console, *recipe_names())
        return
    say(console, *dump_config(resolve(recipe, {}, assignments).settled()).splitlines())
