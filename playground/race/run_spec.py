"""RunSpec: a request to the Decode tab. The server checks it and does not rely on checks in the page.

The form, the presets, the links and the API calls are all read into this class.
"""

import base64
import binascii
import json
import zlib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from nbdiff_engine import SettingError
from nbdiff_engine.decoding.settings import Strategy
from nbdiff_engine.errors import setting_error
from playground.server.tables import LANE_SETTINGS

_LINK_CHARS = 20_000  # more than any link of this page
_LINK_BYTES = 200_000  # decompressed; more than any link of this page

Whole = Annotated[int, Field(strict=True)]
# What the page may send for each kind of setting. The engine checks the values.
_TYPES = {
    "choice": Annotated[str, Field(max_length=40)],
    "integer": Whole,
    "number": float,
    "flag": bool,
    "texts": tuple[str, ...],
    "integers": tuple[str, ...],
    "pairs": tuple[str, ...],
}
_LaneSettings = create_model(
    "_LaneSettings",
    __config__=ConfigDict(extra="forbid", frozen=True),
    **{name: (_TYPES[each.kind] | None, None) for name, each in LANE_SETTINGS.items()},
)


class Turn(BaseModel):
    """An earlier message of the chat. The page sends no system message; a program may."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class LaneSpec(_LaneSettings):
    """One lane: a field for each setting in LANE_SETTINGS (None: the checkpoint's value), and those below."""

    model: str = Field(max_length=400)
    strategy: Strategy
    on: bool = True

    @field_validator("*", mode="before")
    @classmethod
    def _floats_to_integers(cls, value: Any) -> Any:
        """16.0 becomes 16: JavaScript has one type for all numbers."""
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def settings(self) -> dict[str, Any]:
        """The settings for the engine: those that are not None."""
        given = self.model_dump(exclude={"model", "on"})
        return {name: value for name, value in given.items() if value is not None}


class RunSpec(BaseModel):
    """A run. raw: use no chat template. ignore_eos: decode until max_new_tokens, to time lanes at equal length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    lanes: tuple[LaneSpec, ...]
    max_new_tokens: Annotated[Whole, Field(ge=1)] = 96
    raw: bool = False
    ignore_eos: bool = False
    history: tuple[Turn, ...] = Field(default=(), max_length=100)

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Check a form. Raises SettingError with one sentence for the first error."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise setting_error(error) from error

    @field_validator("max_new_tokens", mode="before")
    @classmethod
    def _max_new_tokens(cls, value: Any) -> Any:
        if value is None:
            raise SettingError.of("max_new_tokens", "", "is empty; give a whole number")
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @property
    def running(self) -> list[LaneSpec]:
        """The lanes that are switched on."""
        return [lane for lane in self.lanes if lane.on]

    def to_link(self) -> str:
        """The run as text for a URL."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        packed = zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def from_link(cls, text: str) -> Self:
        """The inverse of `to_link`. Raises SettingError."""
        broken = SettingError("This link cannot be read; it may have been cut off.")
        if not isinstance(text, str) or len(text) > _LINK_CHARS:
            raise broken
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), _LINK_BYTES)
            if not unpacker.eof:
                raise broken
            fields = json.loads(data)
        except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
            raise broken from error
        if not isinstance(fields, dict):
            raise broken
        return cls.of(**fields)
