"""Recipes as reproductions run them: under a budget's keys, a target's and a user's."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from tla_ops.training.recipe import METHODS, Recipe, RecipeError, load_recipe, method_options


def varied(name: str, seed: int, *layers: Sequence[str]) -> Recipe:
    """The package's recipe ``name`` with ``layers`` of ``key=value`` over it, later ones over
    earlier ones; a key that decides nothing for the recipe's method is left out.

    Raises:
        RecipeError: an override that does not make sense, or leaves nothing to measure.
    """
    printed = load_recipe(name)
    # A network's options come with its name: those meant for another one are not its own.
    named = [layer for layer in layers if "model" in map(_key, layer)]
    kept = [
        override
        for layer in layers
        for override in layer
        if _takes(printed, _key(override))
        and not (_key(override) == "model_options" and named and layer is not named[-1])
    ]
    own = ["model_options={}"] if named else []
    made = load_recipe(name, [f"seed={seed}", *own, *kept])
    lacking = sorted(printed.eval_steps.keys() - made.eval_steps.keys())
    if lacking:
        raise RecipeError(f"eval_steps must have steps for {', '.join(lacking)}, got none")
    if not made.val_images:
        raise RecipeError("val_images must be at least 1 to choose a model by, got 0")
    if not made.epsilon:
        raise RecipeError("epsilon must be above 0 for there to be an attack, got 0")
    return made


def changed(recipe: Recipe) -> list[str]:
    """In what a recipe differs from the one of the package that it has its name from."""
    its = load_recipe(recipe.name)
    printed, here = its.as_dict(), recipe.as_dict()
    if recipe.evaluation_step == its.evaluation_step:
        here["eval_step"] = printed["eval_step"]
    return [
        f"{key}: {printed.get(key)} in the recipe, {here.get(key)} here"
        for key in sorted(printed.keys() | here.keys())
        if printed.get(key) != here.get(key) and key not in ("seed", "init_from")
    ]


def _key(override: str) -> str:
    return override.partition("=")[0].partition(".")[0]


def _takes(printed: Recipe, key: str) -> bool:
    """Whether a key decides anything of a recipe's method."""
    if key == "candidates":
        return printed.candidates > 0
    if key == "bank":
        return key in inspect.signature(METHODS[printed.method]).parameters
    return key in vars(printed) or key in method_options(printed.method)
