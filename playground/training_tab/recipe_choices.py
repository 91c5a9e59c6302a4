"""The recipes as the form shows them: their labels, their order, and those of their values that have own fields."""

from playground.training_tab.asked import QUANTIZATIONS
from training.recipe.recipe import Recipe

FIRST = "smoke"
ANY_MODEL = "lora"
# The recipes that most people want, in words; the others have their names.
RECIPE_LABELS = {
    FIRST: "Try it: nano-ar in a minute",
    ANY_MODEL: "LoRA, any model",
    "draft-adapter": "Draft adapter, any model",
    "chat-sft": "All weights, any chat model",
}


def steps_of(recipe: Recipe) -> int | None:
    """The steps of a run; None if they are counted in epochs when it starts."""
    return recipe.optimisation.max_steps if recipe.optimisation.epochs is None else None


def epochs_of(recipe: Recipe) -> str | None:
    """The epochs of a run as the form shows them; None if the recipe gives steps."""
    epochs = recipe.optimisation.epochs
    return None if epochs is None else f"{epochs:g}"


def quantization_of(recipe: Recipe) -> str:
    """The precision of the base model, as the form names it."""
    return next(name for name, value in QUANTIZATIONS.items() if value == recipe.quantization)


def order(name: str) -> tuple[int, bool, str]:
    """Sort key: the recipes with a label come first, in that order."""
    known = list(RECIPE_LABELS)
    return known.index(name) if name in known else len(known), not name.startswith("nano"), name
