"""The sampling and penalties that a checkpoint's generation_config.json asks for, as decode settings.

`settings="checkpoint"` decodes with them. Otherwise this engine's defaults hold, and a note says once what is not used.
Only what the file states counts: transformers' own default of top_k=50 is not the checkpoint's. The caller sets
the lengths.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from transformers import GenerationConfig

from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import SettingError, brief
from nbdiff_engine.model.block_model import BlockModel

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")  # transformers reads them only with do_sample
_NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
# Entries that change an answer and that this engine has no setting for, with the values that change nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ([], {}),
    "exponential_decay_length_penalty": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "top_h": (1,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
_noted: WeakSet[BlockModel] = WeakSet()  # models whose note was given


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a checkpoint asks for. settings: as fields of DecodeSettings, without those at the engine's defaults;
    unsupported: entries of generation_config.json that no setting expresses."""

    settings: Mapping[str, Any]
    unsupported: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class UnusedDefaults:
    """A note for the caller: the checkpoint asks for settings that this call does not use. `str` gives a sentence.

    settings, unsupported: those of GenerationDefaults, each as "name=value".
    """

    model: str
    settings: tuple[str, ...]
    unsupported: tuple[str, ...]

    def __str__(self) -> str:
        own, others = ", ".join(self.settings), ", ".join(self.unsupported)
        sentence = f"the generation_config.json of {self.model} asks for {', '.join(filter(None, (own, others)))}, "
        if not own:
            return sentence + "which this engine does not have; decoding continues without it"
        sentence += "and this call does not use that"
        if others:
            return sentence + f"; give {own} yourself if you want it: this engine does not have {others}"
        return sentence + "; settings='checkpoint' does (--settings checkpoint)"


def defaults_of(config: GenerationConfig) -> GenerationDefaults:
    """What a generation config asks for."""
    asked = {name: getattr(config, name, None) for name in _NEUTRAL}
    if not config.do_sample:
        asked |= dict.fromkeys(_SAMPLING)
    found = {name: value for name, value in asked.items() if value is not None and value != _NEUTRAL[name]}
    if config.do_sample and asked["temperature"] != 0:
        found["temperature"] = 1.0 if asked["temperature"] is None else asked["temperature"]
    if stop := config.stop_strings:
        found["stop"] = stop
    others = {name: getattr(config, name, None) for name in _UNSUPPORTED}
    return GenerationDefaults(
        found,
        {n: value for n, value in others.items() if value is not None and value not in _UNSUPPORTED[n]},
    )


def with_checkpoint_values(model: BlockModel, settings: DecodeSettings) -> DecodeSettings:
    """The settings, with the checkpoint's values for those that are not given. Raises SettingError if it asks for what
    this engine does not have, or for a value out of range."""
    defaults = defaults_of(model.network.generation_config)
    if defaults.unsupported:
        own, others = (", ".join(_words(each)) for each in (defaults.settings, defaults.unsupported))
        raise SettingError(
            f"The generation_config.json of {model.name} asks for {others}, which this engine does not have; leave out "
            f"settings='checkpoint'{f' and give {own} yourself' if own else ''}."
        )
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    try:
        return DecodeSettings.of(**{**defaults.settings, **given})
    except SettingError as error:
        raise SettingError(f"The generation_config.json of {model.name} does not fit: {error}") from error


def unused_defaults(model: BlockModel, settings: DecodeSettings) -> UnusedDefaults | None:
    """The note, once for each model: what a caller who named no such setting may have expected."""
    if model in _noted:
        return None
    defaults = defaults_of(model.network.generation_config)
    if not (defaults.settings or defaults.unsupported) or settings.model_fields_set & {*_NEUTRAL, *defaults.settings}:
        return None
    _noted.add(model)
    return UnusedDefaults(model.name, _words(defaults.settings), _words(defaults.unsupported))


def _words(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={brief(value)}" for name, value in values.items()
    )
