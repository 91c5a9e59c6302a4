"""The licence of a model or of a data set, as its card on the hub states it."""

from typing import Literal

import huggingface_hub

_SECONDS = 5.0  # the card of a finished model must not wait for the network


def hub_licence(kind: Literal["model", "dataset"], hub_id: str) -> str | None:
    """The licence; None if the hub states none or cannot be reached."""
    try:
        api = huggingface_hub.HfApi()
        ask = api.model_info if kind == "model" else api.dataset_info
        card = ask(hub_id, timeout=_SECONDS).card_data
        licence = None if card is None else card.get("license")
    except Exception:  # the hub's client and the network raise many kinds, and a card without a licence is complete
        return None
    return ", ".join(map(str, licence)) if isinstance(licence, list) else licence
