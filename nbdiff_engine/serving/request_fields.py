"""The bodies of requests: the fields of OpenAI's API that this server has, and the engine's own settings.

A field that is not declared here is refused by name. The settings of decoding are checked by DecodeSettings alone.
"""

import secrets
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from nbdiff_engine.decoding.settings import SETTING_FIELDS
from nbdiff_engine.errors import SettingError, brief

MOST_CHOICES = 16
_NOT_OWN = ("max_new_tokens", "logprobs", "trace")  # settings that OpenAI's fields, or the stream mode, decide

# Each setting of the engine is a field of its name; None: not given.
_Settings = create_model(
    "_Settings",
    __config__=ConfigDict(extra="forbid"),
    **{
        name: (Annotated[Any, Field(description=each.description)], None)
        for name, each in SETTING_FIELDS.items()
        if name not in _NOT_OWN
    },
)


class StreamOptions(BaseModel):
    """Options of a stream. include_usage: a last chunk has the usage of the request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class _Body(_Settings):
    """What both routes take."""

    model_config = ConfigDict(strict=True)

    own: ClassVar[tuple[str, ...]] = tuple(_Settings.model_fields)

    model: Annotated[str, Field(description="the name of this server's model, as /v1/models lists it")]
    max_tokens: Annotated[int | None, Field(ge=1, description="maximum length of the answer, in tokens")] = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES, description="answers to the prompt")] = 1
    stream: Annotated[bool, Field(description="server-sent events, one for each forward that adds text")] = False
    stream_options: Annotated[
        StreamOptions | None, Field(description="include_usage: a last chunk has the usage of the request")
    ] = None
    stream_mode: Annotated[
        Literal["tokens", "denoise"],
        Field(description="denoise: a chunk for each forward, with its event (docs/trace-format.md)"),
    ] = "tokens"
    prefix_cache: Annotated[
        bool,
        Field(description="false: read the whole prompt, and keep nothing of it for later requests"),
    ] = True
    user: Annotated[str | None, Field(description="a name for the caller; it is not stored")] = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """A field that is null counts as not given: clients send null for what their caller left out."""
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _stream_fields(self) -> "_Body":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream=true; leave it out")
        if self.stream_mode == "denoise" and not self.stream:
            raise ValueError("stream_mode='denoise' is for stream=true; set it")
        return self

    def decode_settings(self, most_tokens: int) -> dict[str, Any]:
        """The decode settings. most_tokens: of an answer, if the request does not say."""
        given = {name: value for name in self.own if (value := getattr(self, name)) is not None}
        given.setdefault("seed", secrets.randbelow(2**31))  # who asks twice wants two samples
        if isinstance(bias := given.get("logit_bias"), dict):
            given["logit_bias"] = _bias(bias)
        return given | {
            "max_new_tokens": self.max_tokens or most_tokens,
            "logprobs": self.most_logprobs,
            "trace": self.stream_mode == "denoise",
        }

    @property
    def most_logprobs(self) -> int | None:
        """How many of the best tokens are reported at each position; None: no log-probabilities."""
        raise NotImplementedError


class ChatBody(_Body):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[
        list[dict[str, Any]],
        Field(min_length=1, description="the conversation, for the chat template; a content is text or text parts"),
    ]
    max_completion_tokens: Annotated[int | None, Field(ge=1, description="the newer name of max_tokens")] = None
    logprobs: Annotated[bool, Field(description="the log-probability of each token of the answer")] = False
    top_logprobs: Annotated[int | None, Field(ge=0, le=20, description="also those of the most likely tokens")] = None
    tools: Annotated[
        list[dict[str, Any]] | None,
        Field(description="passed to the chat template; calls in the answer are looked for"),
    ] = None
    tool_choice: Annotated[
        Any, Field(description='"auto", or "none": the model does not see the tools; a call cannot be forced')
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, Field(description="further arguments of the chat template")
    ] = None

    @field_validator("tool_choice")
    @classmethod
    def _not_forced(cls, value: Any) -> Any:
        if value not in (None, "auto", "none"):
            raise ValueError(f"tool_choice is {brief(value)}; this server cannot force a call, choose 'auto' or 'none'")
        return value

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatBody":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true; set it")
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
            self.max_tokens = self.max_completion_tokens
        return self

    @property
    def most_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def uses_tools(self) -> bool:
        """Whether the model sees tools, and calls are looked for in its answer."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def template_arguments(self) -> dict[str, Any]:
        arguments = dict(self.chat_template_kwargs or {})
        if self.uses_tools:
            arguments["tools"] = self.tools
        return arguments


class CompletionBody(_Body):
    """The body of POST /v1/completions."""

    prompt: Annotated[
        str | list[int] | list[str] | list[list[int]],
        Field(description="plain text, token ids, or a list of either; the chat template is not used"),
    ]
    logprobs: Annotated[
        int | None, Field(ge=0, le=20, description="the log-probabilities of each token and of the most likely ones")
    ] = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_of_the_forms(cls, given: Any) -> Any:
        texts = isinstance(given, str) or (isinstance(given, list) and all(isinstance(each, str) for each in given))
        if texts or _are_ids(given) or (isinstance(given, list) and all(map(_are_ids, given))):
            return given
        raise SettingError.of("prompt", brief(given), "it must be text, a list of token ids, or a list of either")

    @property
    def most_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str) or not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


def _are_ids(given: Any) -> bool:
    return isinstance(given, list) and all(type(each) is int for each in given)


def _bias(given: dict[Any, Any]) -> dict[Any, Any]:
    """JSON has no integers as keys."""
    try:
        return {int(token): bias for token, bias in given.items()}
    except (TypeError, ValueError) as error:
        must_be = "has a key that is no token id; give token ids as keys"
        raise SettingError.of("logit_bias", "", must_be) from error
