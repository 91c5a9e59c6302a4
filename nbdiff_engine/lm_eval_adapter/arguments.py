"""The arguments of `--model_args` and a task's generation arguments, checked; each mistake gives one sentence."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from nbdiff_engine.decoding.setting_fields import is_list
from nbdiff_engine.decoding.settings import SETTING_FIELDS, DecodeSettings
from nbdiff_engine.errors import SettingError, brief, first_problem
from nbdiff_engine.evaluation.likelihood import SAMPLES
from nbdiff_engine.load_options import DEVICE, DTYPE, QUANTIZATION

# The fields of DecodeSettings that are not arguments: the task defines the length, the stop strings and the sampling
# of an answer, and an evaluation neither needs answers of equal length nor records traces and log-probabilities.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_NOT_ARGUMENTS = (
    *_SAMPLING,
    *("max_new_tokens", "stop", "stop_token_ids", "skip_after_eos", "ignore_eos", "settings", "logprobs", "trace"),
)
DECODING = tuple(name for name in DecodeSettings.model_fields if name not in _NOT_ARGUMENTS)


class _OwnArguments(BaseModel):
    """The arguments of --model_args that are not decode settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: Annotated[str, Field(description="bundled name, folder or hub id; pretrained= means the same")]
    dtype: Annotated[str, Field(description=DTYPE)] = "auto"
    device: Annotated[str, Field(description=DEVICE)] = "auto"
    quantization: Annotated[str | None, Field(description=QUANTIZATION)] = None
    batch_size: Annotated[int, Field(ge=1, description="rows per forward")] = 1
    max_length: Annotated[int | None, Field(ge=2, description="limit of prompt and answer together, in tokens")] = None
    max_gen_toks: Annotated[int, Field(ge=1, description="maximum length of an answer, if the task names none")] = 256
    add_bos_token: Annotated[bool | None, Field(description="put a BOS first; None: as the tokenizer does")] = None
    template_arguments: Annotated[
        dict[str, Any], Field(description="arguments for the chat template, as a dict or as JSON")
    ] = {}
    likelihood: Annotated[
        Literal["ar", "diffusion"] | None,
        Field(description="ar: exact, by the AR head; diffusion: a bound. Default: ar if the checkpoint has it"),
    ] = None
    samples: Annotated[int, Field(ge=1, description="masked copies of each block, for the bound")] = SAMPLES


# Declared in DecodeSettings, which checks their values. None means the checkpoint's value, or the default.
_WithDecoding = create_model(
    "_WithDecoding",
    __base__=_OwnArguments,
    **{
        name: (Any if is_list(SETTING_FIELDS[name]) else DecodeSettings.model_fields[name].annotation | None, None)
        for name in DECODING
    },
)


class ModelArguments(_WithDecoding):
    """The arguments of --model_args. None means the checkpoint's value. Decode settings are those of DecodeSettings."""

    @classmethod
    def of(cls, **arguments: Any) -> Self:
        """Check arguments. Raises SettingError with one sentence for the first invalid argument."""
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            if error.errors()[0]["type"] == "extra_forbidden":
                name = error.errors()[0]["loc"][0]
                raise SettingError(
                    f"model_args has {brief(name)}, which nbdiff does not know; it knows {', '.join(cls.model_fields)}."
                ) from error
            if error.errors()[0]["type"] == "missing":
                raise SettingError(
                    "model_args names no checkpoint; give model= with a bundled name, a folder or a hub id."
                ) from error
            raise SettingError(f"model_args: {first_problem(error)}.") from error

    @model_validator(mode="before")
    @classmethod
    def _as_the_harness_spells_it(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = dict(values)
        if "pretrained" in values:
            if "model" in values:
                raise ValueError("model and pretrained mean the same; give one of them")
            values["model"] = values.pop("pretrained")
        given = values.get("template_arguments", values.get("chat_template_args"))
        if "template_arguments" in values and "chat_template_args" in values:
            raise ValueError("template_arguments and chat_template_args mean the same; give one of them")
        if given is not None or values.get("enable_thinking") is not None:
            values["template_arguments"] = _as_dict(given or {})
        values.pop("chat_template_args", None)
        if (thinking := values.pop("enable_thinking", None)) is not None:
            values["template_arguments"] = {**values["template_arguments"], "enable_thinking": thinking}
        size = values.get("batch_size")
        if isinstance(size, str) and size.startswith("auto"):
            raise ValueError(f"batch_size is {size!r}; nbdiff does not choose a size itself; give a number")
        if "max_batch_size" in values:
            raise ValueError("max_batch_size belongs to batch_size=auto, which nbdiff does not have; give batch_size")
        return values

    @model_validator(mode="after")
    def _decodable(self) -> Self:
        self.decode_settings()  # reports a mistake before many gigabytes of a checkpoint are read
        return self

    def decode_settings(self, **others: Any) -> dict[str, Any]:
        """The decode settings among the arguments, and `others`, checked together. Raises SettingError."""
        chosen = {name: getattr(self, name) for name in DECODING if getattr(self, name) is not None}
        DecodeSettings.of(**chosen, **others)
        return {**chosen, **others}


def _as_dict(given: Any) -> dict[str, Any]:
    """The arguments of a template; in a list of name=value, they are JSON."""
    try:
        found = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise ValueError(f"template_arguments is {brief(given)}; give a dict, or a JSON object")
    return dict(found)


def sampling_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling settings from a task's normalised generation arguments, without `until` and `max_gen_toks`.

    Raises SettingError for an argument that decoding does not support: none is ignored.
    """
    unknown = next((name for name in kwargs if name not in (*_SAMPLING, "do_sample")), None)
    if unknown is not None:
        raise SettingError(
            f"gen_kwargs has {unknown!r}, which nbdiff does not know; it knows until, max_gen_toks, do_sample, "
            f"{', '.join(_SAMPLING)}."
        )
    if not kwargs.get("do_sample"):
        return {"temperature": 0.0}
    if not kwargs.get("temperature"):
        raise SettingError(
            "gen_kwargs asks for sampling (do_sample=true) without a temperature above 0; give one, or do_sample=false."
        )
    return {name: kwargs[name] for name in _SAMPLING if kwargs.get(name) is not None}
