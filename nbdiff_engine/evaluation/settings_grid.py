"""The settings of an evaluation: conversion to text and from text, and a grid of settings."""

from collections.abc import Sequence

from nbdiff_engine.decoding.setting_fields import words_of
from nbdiff_engine.decoding.settings import STRATEGIES, DecodeSettings
from nbdiff_engine.errors import SettingError, brief

AR = DecodeSettings.of(strategy="ar")
DEFAULT_SETTINGS = (
    AR,
    DecodeSettings.of(strategy="block_diffusion", block_size=16, threshold=0.9),
    DecodeSettings.of(strategy="self_speculative", block_size=16),
)
MAX_NEW_TOKENS = 160


def label_of(settings: DecodeSettings) -> str:
    """A setting as text for `--setting`: the strategy, then the other chosen values."""
    parts = [str(settings.strategy)]
    for name in DecodeSettings.model_fields:
        value = getattr(settings, name)
        if name in ("strategy", "trace") or name not in settings.model_fields_set or value is None:
            continue
        parts += [f"{name}={words_of(each)}" for each in (value if name == "stop" else (value,))]
    return ",".join(parts)


def parse_setting(text: str) -> DecodeSettings:
    """ "block_diffusion,block_size=8,threshold=0.7" as settings. Raises SettingError with one sentence."""
    where = f"The setting {brief(text)} is not valid"
    strategy, *rest = (part.strip() for part in text.split(","))
    if not strategy or "=" in strategy:
        raise SettingError(f"{where}: it must begin with the strategy, as in block_diffusion,block_size=8.")
    fields: dict[str, object] = {"strategy": strategy}
    for part in rest:
        name, sign, value = (each.strip() for each in part.partition("="))
        if not sign or not name or not value:
            raise SettingError(f"{where}: {brief(part)} is no name=value.")
        if name == "trace":
            raise SettingError(f"{where}: an evaluation never records traces.")
        if name in fields:
            raise SettingError(f"{where}: it has {name} twice.")
        fields[name] = value
    try:
        return DecodeSettings.of(**fields)
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from error


def grid(
    strategies: Sequence[str] = (), block_sizes: Sequence[str | int] = (), thresholds: Sequence[str | float] = ()
) -> list[DecodeSettings]:
    """Strategies x block sizes x thresholds, each combination once. A value that is not given is the checkpoint's.

    strategies: all of them if none is given. AR appears once: it has neither blocks nor thresholds. Thresholds apply
    only to block diffusion with blocks of two or more tokens: one pass fills a whole draft, and a block of one token
    is fixed with any threshold. Raises SettingError with one sentence for the first invalid value.
    """
    found: dict[str, DecodeSettings] = {}
    for name, values in (("strategy", strategies), ("block_size", block_sizes), ("threshold", thresholds)):
        for value in values:
            DecodeSettings.of(**{name: value})  # checks also the values that no strategy uses
    for strategy in strategies or STRATEGIES:
        for size in block_sizes if block_sizes and strategy != "ar" else (None,):
            fields: dict[str, object] = {"strategy": strategy}
            if size is not None:
                fields["block_size"] = size
            matters = strategy == "block_diffusion" and DecodeSettings.of(**fields).block_size != 1
            for threshold in thresholds if thresholds and matters else (None,):
                more = {} if threshold is None else {"unmasking": "confidence", "threshold": threshold}
                each = DecodeSettings.of(**fields, **more)
                found.setdefault(label_of(each), each)
    return list(found.values())


def listed(options: Sequence[str] | None) -> list[str]:
    """The values of an option that may be repeated or list values with commas."""
    return [value.strip() for option in options or () for value in option.split(",")]
