"""What a server says of its model, beside its name: the entry `nbdiff` of a card of /v1/models."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.spec import DiffusionSpec
from nbdiff_engine.trace.trace_file import VERSION

ENTRY = "nbdiff"


class ServedModel(BaseModel):
    """The facts that a client needs before it asks for anything, named as those of a BlockModel.

    trace_version: of the events in a denoise stream. spec: None for an AR checkpoint. drafts: whether it has a draft
    adapter.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    trace_version: int
    spec: DiffusionSpec | None
    drafts: bool
    has_chat_template: bool
    parameters: int
    dtype: str
    device: str
    context_length: int

    @classmethod
    def of(cls, model: BlockModel, name: str) -> Self:
        """The facts of a loaded model that is served under this name."""
        return cls(
            name=name,
            trace_version=VERSION,
            spec=model.spec,
            drafts=model.drafts,
            has_chat_template=bool(model.tokenizer is not None and model.tokenizer.chat_template),
            parameters=model.parameters,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            context_length=model.context_length,
        )

    def card(self, created: int) -> dict[str, Any]:
        """The card as plain JSON values. created: seconds since 1970."""
        facts = self.model_dump(mode="json", exclude={"name"})
        return {"id": self.name, "object": "model", "created": created, "owned_by": "nbdiff", ENTRY: facts}

    @classmethod
    def of_card(cls, card: dict[str, Any]) -> Self:
        """The inverse of `card`. Raises KeyError or ValueError for the card of another server or version."""
        return cls.model_validate({**card[ENTRY], "name": card["id"]})
