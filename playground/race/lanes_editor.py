"""The lane form: the component for the settings of the next run's lanes."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import gradio as gr

from nbdiff_engine import SettingError
from nbdiff_engine.decoding.plan import default_draft_layout
from nbdiff_engine.decoding.settings import STRATEGIES
from nbdiff_engine.model.checkpoint_folders import bundled_adapters
from nbdiff_engine.model.draft_spec import DraftSpec
from nbdiff_engine.model.spec import DiffusionSpec
from playground.options import ServerOptions
from playground.race.lanes import lane_for, strategies, why_only_ar
from playground.race.run_spec import LaneSpec
from playground.server.lane_models import LaneModels
from playground.server.tables import form_tables
from playground.server.web_files import read


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A loaded model and the strategies that can decode it. why_only_ar: why that is AR alone, or "".

    defaults: its values for settings that a lane leaves empty, by name, if they differ between models.
    """

    name: str
    strategies: Sequence[str]
    why_only_ar: str
    defaults: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EditorValue:
    """The content of the form. most: the largest number of lanes in a run. trains: whether the page has a training
    form. chosen: whether the visitor has chosen the lanes, so that the browser remembers them."""

    lanes: Sequence[LaneSpec]
    models: Sequence[ModelChoice]
    most: int
    trains: bool
    chosen: bool = False

    @classmethod
    def of(cls, loaded: LaneModels, options: ServerOptions, lanes: Sequence[LaneSpec], chosen: bool = False) -> Self:
        """The form with these lanes and the models that are loaded now."""
        names = loaded.names()
        models = [
            ModelChoice(name, strategies(model), why_only_ar(model), _defaults(model.spec, model.drafts))
            for name, model in ((name, loaded.get(name)) for name in names)
        ]
        coming = loaded.coming
        if coming is not None and coming.name not in names and coming.state() is not None:
            models.insert(0, _coming_choice(coming.name))
        return cls(lanes, models, options.max_lanes, options.trains, chosen)

    def to_json(self) -> dict[str, Any]:
        """The component's value. A new `serial` tells the page that the server, not the visitor, changed the value."""
        return {
            "lanes": [lane.model_dump(mode="json", exclude_none=True) for lane in self.lanes],
            "models": [asdict(model) for model in self.models],
            "most": self.most,
            "trains": self.trains,
            "chosen": self.chosen,
            "tables": form_tables(),
            "serial": secrets.token_hex(4),
        }


def _coming_choice(name: str) -> ModelChoice:
    """The choice of a draft adapter that is not loaded yet."""
    # Its MASK token is not known without the base, and not read here.
    spec = DraftSpec.read(bundled_adapters()[name], name).diffusion_spec(vocabulary=0)
    return ModelChoice(name, STRATEGIES, "", _defaults(spec, has_adapter=True))


def _defaults(spec: DiffusionSpec | None, has_adapter: bool) -> dict[str, Any]:
    """The values that `make_plan` fills in for a checkpoint with this spec."""
    if spec is None:
        return {}
    return {
        "block_size": spec.block_size,
        "sub_block_size": spec.sub_block_size or "whole block",
        "unmasking": spec.unmasking,
        "threshold": spec.threshold,
        "draft_layout": default_draft_layout(has_adapter),
    }


def build(loaded: LaneModels, options: ServerOptions, lanes: Sequence[LaneSpec]) -> gr.HTML:
    """Lay out the form in the Blocks being built."""
    return gr.HTML(
        value=EditorValue.of(loaded, options, lanes).to_json(),
        html_template=read("lanes_editor.html"),
        css_template=read("lanes_editor.css"),
        js_on_load=read("lanes_editor.js"),
        apply_default_css=False,
        elem_id="lanes",
    )


def lanes_of(shown: Any) -> Any:
    """The lanes in the form's value from the page, unchecked; RunSpec checks them."""
    return shown.get("lanes") if isinstance(shown, dict) else None


def with_model(loaded: LaneModels, options: ServerOptions, shown: Any, name: str) -> Any:
    """The form with one more lane, for a loaded model. Raises SettingError if a run can have no more lanes."""
    lanes = lanes_of(shown)
    lanes = lanes if isinstance(lanes, list) else []
    if len(lanes) >= options.max_lanes:
        raise SettingError(
            f"There are {len(lanes)} lanes, the most that this server allows; remove one in the Decode tab first."
        )
    new = lane_for(loaded.get(name)).model_dump(mode="json", exclude_none=True)
    return {**EditorValue.of(loaded, options, (), chosen=True).to_json(), "lanes": [*lanes, new]}


def refreshed(loaded: LaneModels, options: ServerOptions, shown: Any) -> Any:
    """The form with the lanes that the page has, unchecked, and the models that are loaded now."""
    lanes = lanes_of(shown)
    if not isinstance(lanes, list):
        return gr.skip()
    return {**EditorValue.of(loaded, options, ()).to_json(), "lanes": lanes}
