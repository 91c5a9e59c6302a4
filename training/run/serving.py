"""Which inference servers can load a draft adapter, and the line that starts each.

SGLang (pull request 37667, merged) and vLLM (pull request 55947, open) draft as Uno does (arXiv 2609.04010): one row
through the base, then rows of uniform random ids through base and LoRA, with causal attention. They read a PEFT folder
and nothing else, so they have no embedding for MASK and no bidirectional rows.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from nbdiff_engine.model.draft_spec import DRAFT_SPEC, DraftSpec, is_draft_adapter
from nbdiff_engine.model.lora_folders import beside_adapter
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, is_adapter
from training.errors import RunError

ENGINE = "nbdiff_engine"


@dataclass(frozen=True, slots=True)
class Server:
    """A server and how it loads an adapter. line: None if it cannot, with the reason in `about`."""

    name: str
    line: str | None
    about: str


def servers_for(folder: Path) -> list[Server]:
    """The servers for a draft adapter's folder. Raises RunError for another folder, CheckpointError for a bad spec."""
    if not (is_adapter(folder) and is_draft_adapter(folder)):
        raise RunError(
            f"{folder} is no draft adapter: it has no {DRAFT_SPEC} beside an {ADAPTER_CONFIG}. --check is for runs "
            "with lora.mode draft_only; the final/ of others is a plain checkpoint."
        )
    spec = DraftSpec.read(folder, str(folder))
    path, base = shlex.quote(str(folder)), shlex.quote(beside_adapter(folder, spec.base.name))
    own = Server(ENGINE, f"python -m nbdiff_engine generate PROMPT --model {base} --adapter {path}", "any noise")
    reasons = []
    if spec.noise != "uniform":
        reasons.append("its noise is MASK, whose embedding they cannot load")
    if spec.noise_attention != "causal":
        reasons.append("its noise rows attend to later ones")
    if reasons:
        about = f"{' and '.join(reasons)}; train with the recipe uno-export"
        return [own, Server("SGLang", None, about), Server("vLLM", None, about)]
    settings = {
        "method": "uno",
        "uno_lora_path": str(folder),
        "uno_mask_token_id": spec.noise_high,
        "num_speculative_tokens": spec.block_size,
    }
    return [
        own,
        Server(
            "SGLang",
            f"python -m sglang.launch_server --model-path {base} --speculative-algorithm UNO --uno-lora-path {path}",
            "pull request 37667; needs CUDA and a base with full attention",
        ),
        Server(
            "vLLM",
            f"vllm serve {base} --speculative-config {shlex.quote(json.dumps(settings))}",
            "pull request 55947, not merged yet; needs CUDA and a base with full attention",
        ),
    ]


def shown(servers: list[Server]) -> str:
    """The servers as text: the line of each, or why there is none."""
    return "\n".join(
        f"{each.name}: no, {each.about}" if each.line is None else f"{each.name}: yes ({each.about})\n  {each.line}"
        for each in servers
    )
