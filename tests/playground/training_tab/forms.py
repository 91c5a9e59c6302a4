"""The values of the training form, for tests."""

from typing import Any

from playground.training_tab.asked import form_fields, shown_values
from training.recipe.recipe import Recipe


def filled(**changed: Any) -> list[Any]:
    """The form's values when the page opens, with changes. Keys are those of a recipe, with __ for the dot."""
    preset = changed.pop("preset", "smoke")
    recipe = Recipe.read(preset)
    first = {
        "preset": preset,
        "base": recipe.base,
        "data": recipe.data.source,
        "name": "",
        "max_steps": recipe.optimisation.max_steps,
        "epochs": None,
        "lora": recipe.lora is not None,
        "quantization": "As stored",
    }
    values = dict(zip((field.name for field in form_fields()), shown_values(recipe)))
    for key, value in changed.items():
        target = first if key in first else values
        name = key if key in first else key.replace("__", ".")
        assert name in target
        target[name] = value
    return [*first.values(), *values.values()]
