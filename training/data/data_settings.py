"""DataSettings: the data that a run trains on. Wrong settings raise an error with one sentence."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nbdiff_engine.decoding.settings import TEMPERATURES
from nbdiff_engine.errors import brief, first_problem
from training.errors import RecipeError

CORPUS = "corpus"  # the problems that this project generates
CHAT = "chat"  # prompts for chat models that this project generates, without answers
SELF = "self"  # documents that the base writes

# The role of a column, and the format that reads it.
ROLES = {"text": "text", "prompt": "prompt", "completion": "prompt", "input": "prompt", "messages": "messages"}
FormatName = Literal["auto", "text", "prompt", "messages"]


class SelfData(BaseModel):
    """Settings of the documents that the base writes if source is "self"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompts: str | None = Field(
        default=None,
        description='a .txt file (one prompt per line), any other data, whose answers are not read, "corpus" for '
        'its prompts, or "chat" for prompts of chat, knowledge, maths, code and summarising; used in turn; empty: the '
        "model also writes the prompts",
    )
    documents: int = Field(default=512, ge=1, description="number of documents to write, including the held-out ones")
    max_new_tokens: int = Field(default=256, ge=1, description="maximum tokens of an answer")
    temperature: float = Field(
        default=1.0, ge=0, le=TEMPERATURES[1], description="1: the base's own distribution; 0: its most likely tokens"
    )
    greedy: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of answers that are written greedily, at temperature 0, as most decoding is; needs prompts",
    )

    @model_validator(mode="after")
    def _documents_differ(self) -> Self:
        if self.greedy and self.prompts is None:
            raise ValueError(
                f"self_data.greedy is {self.greedy:g}, but without prompts all greedy documents would be the same; set "
                "self_data.prompts"
            )
        if self.temperature == 0 and self.prompts is None:
            raise ValueError(
                "self_data.temperature is 0, and without prompts all documents would be the same; set self_data.prompts"
            )
        return self


class DataSettings(BaseModel):
    """The source of the documents, and how a row of the source becomes a document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[
        str | None,
        Field(
            description="a .jsonl, .json, .parquet, .csv, .tsv or .txt file (also .gz, .zst), a folder or .zip of "
            'them, a hub id (owner/name), "corpus" (the problems of this project) or "self" (the checkpoint\'s own '
            "answers)"
        ),
    ]
    format: Annotated[
        FormatName,
        Field(
            description="the format of a row: text, prompt (with a completion), messages (a conversation), "
            "or auto, which chooses by the columns"
        ),
    ] = "auto"
    columns: Annotated[
        dict[str, str],
        Field(description=f"role to column, for columns without a usual name; roles: {', '.join(ROLES)}"),
    ] = {}
    subset: Annotated[str | None, Field(description="the configuration of a hub data set, if it has several")] = None
    split: Annotated[str, Field(description="the split of a hub data set; files have only train")] = "train"
    held_out: Annotated[int, Field(ge=0, description="documents kept for evaluation, at most a tenth of all")] = 64
    limit: Annotated[int | None, Field(ge=1, description="read only this number of documents, from the first")] = None
    seed: Annotated[
        int,
        Field(
            ge=0,
            le=2**63 - 1,
            description="seed of the held-out choice, of the corpus's problems and of the samples of self",
        ),
    ] = 0
    raw: Annotated[bool, Field(description="encode prompt and completion as plain text, without a chat template")] = (
        False
    )
    control_tokens: Annotated[
        bool,
        Field(
            description="names such as <|im_end|> in a row become control tokens, for text that is written with a chat "
            "template already; by default they are text"
        ),
    ] = False
    template_arguments: Annotated[
        dict[str, Any],
        Field(description="arguments of the chat template, such as {enable_thinking: false}; decode with the same"),
    ] = {}
    deduplicate: Annotated[
        bool, Field(description="leave out documents with the same text as an earlier one, but for white space")
    ] = False
    bad_rows: Annotated[
        float, Field(ge=0, le=1, description="share of rows that may be unusable; they are left out and named")
    ] = 0.01
    weights: Annotated[
        dict[str, float], Field(description="domain of the corpus to its share; default: equal shares")
    ] = {}
    self_data: Annotated[SelfData, Field(description='documents that the base writes if source is "self"')] = SelfData()

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Check settings. Raises RecipeError with one sentence about the first mistake."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise RecipeError(f"{first_problem(error)}.") from error

    @field_validator("held_out", "limit", "seed", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"{info.field_name} is {value}; give a number, not a boolean")
        return value

    @field_validator("source", "split", "subset")
    @classmethod
    def _not_blank(cls, value: str | None, info: Any) -> str | None:
        if value is not None and not value.strip():
            raise ValueError(f"{info.field_name} is empty; give a value or leave it out")
        return value

    @field_validator("columns")
    @classmethod
    def _known_roles(cls, value: dict[str, str]) -> dict[str, str]:
        for role in value:
            if role not in ROLES:
                raise ValueError(f"columns names the role {brief(role)}; choose one of {', '.join(ROLES)}")
        if len({ROLES[role] for role in value}) > 1:
            raise ValueError(
                f"columns names {', '.join(value)}, which belong to different formats; name the roles of one format"
            )
        return value

    @field_validator("weights")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        for domain, weight in value.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {brief(domain)} is {weight:g}; it must be 0 or more")
        if value and not sum(value.values()) > 0:
            raise ValueError("weights are all 0; give at least one domain a positive weight")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wanted = next((ROLES[role] for role in self.columns), self.format)
        if self.format not in ("auto", wanted):
            raise ValueError(f"columns names {', '.join(self.columns)}, which format {self.format} does not read")
        if self.raw and wanted == "messages":
            raise ValueError("raw is set, but a conversation is written by the chat template; use format prompt")
        if self.raw and self.template_arguments:
            raise ValueError("raw is set, but template_arguments are for a chat template; leave one of them out")
        if self.weights and self.source != CORPUS:
            raise ValueError(f"weights are for domains of the corpus, but source is {brief(self.source)}")
        if self.source != SELF and self.self_data != SelfData():
            raise ValueError(f"self_data is for source 'self', but source is {brief(self.source)}")
        if self.source == SELF and self.limit is not None:
            raise ValueError("limit is for existing data; for source 'self' set self_data.documents instead")
        return self
