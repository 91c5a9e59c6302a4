"""A test, with two tokens, whether a network can be decoded pass by pass over a KV cache."""

import torch

from nbdiff_engine.errors import CheckpointError, brief_text
from nbdiff_engine.model.block_model import BlockModel

_PROBE = (1, 2)  # not token 0: often the padding token, whose embedding is zero
_NOISE = 2  # noise rows after them, for a draft adapter: whether its layers can be limited to them


def check_network(model: BlockModel) -> None:
    """Refuse a network that cannot be decoded pass by pass: it would give wrong tokens.

    Runs two tokens through the network itself and through a session: one as the prompt, one as a block that is denoised
    and then committed. For any class this detects logits that change after the head (scaling, soft-capping), and
    layers that keep other state than keys and values or keep state after a denoise pass. A draft adapter runs once.

    Raises CheckpointError with one sentence.
    """
    what = f"{model.name} is a {type(model.network).__name__}"
    first, second = _PROBE
    try:
        with torch.inference_mode():
            whole = model.network(input_ids=torch.tensor([_PROBE], device=model.device), use_cache=False)
        whole_V = whole.logits[0, -1].float()
        session = model.open(1, len(_PROBE) + _NOISE)
        session.prefill([[first]])
        session.denoise([[second]])
        parts_V = session.commit([[second]])[0, -1]
        if model.draft is not None:
            session.rollback([1])
            session.denoise([[second, *[model.draft.mask_token_id] * _NOISE]])
    except Exception as error:  # a network of any class may raise any exception here
        raise CheckpointError(
            f"{what}, whose layers cannot be run block by block over a key/value cache "
            f"({brief_text(str(error))}); this engine decodes causal LMs with full attention."
        ) from error
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.02
    if not torch.allclose(whole_V, parts_V, rtol=tolerance, atol=tolerance * whole_V.abs().max().item()):
        raise CheckpointError(
            f"{what}, which changes its logits after the head (scaling or soft-capping); "
            "this engine decodes causal LMs whose logits are the head's output."
        )
