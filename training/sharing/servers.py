"""Which inference servers can load an exported folder, and the line that starts each.

A model is served as the AR model that it is. A LoRA is served by its matrices alone, from the subfolder FOR_SERVERS.

With draft adapters, SGLang (pull request 37667, merged) and vLLM (pull request 55947, open) draft as Uno does (arXiv
2609.04010): one row through the base, then rows of uniform random ids through base and LoRA, with causal attention.
They read a PEFT folder and nothing else, so they have no embedding for MASK and no bidirectional rows.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import nbdiff_engine as nb
from nbdiff_engine.model.checkpoint_folders import bundled_models, read_json
from nbdiff_engine.model.draft_spec import DraftSpec, is_draft_adapter
from nbdiff_engine.model.lora_folders import ADAPTER_SPEC, beside_adapter
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from nbdiff_engine.model.spec import CONFIG_KEY, DiffusionSpec
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, is_adapter
from training.errors import RunError
from training.sharing.writing import FOR_SERVERS

ENGINE = "nbdiff_engine"
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values of --max-lora-rank


@dataclass(frozen=True, slots=True)
class Server:
    """A server and how it loads an adapter. line: None if it cannot, with the reason in `about`."""

    name: str
    line: str | None
    about: str


def servers_for(folder: Path, shown_as: str | None = None) -> list[Server]:
    """The servers for the folder of a model or an adapter. shown_as: its name in the lines; None: the folder's path.

    Raises RunError for another folder, CheckpointError for a bad spec.
    """
    path = shlex.quote(shown_as or str(folder))
    if not is_adapter(folder):
        if not (folder / "config.json").is_file():
            raise RunError(
                f"{folder} is neither a model's nor an adapter's folder; give the final/ of a run, or export one first."
            )
        return _for_model(folder, path)
    if is_draft_adapter(folder):
        return _for_draft_adapter(folder, path)
    return _for_lora(folder, path)


def _for_model(folder: Path, path: str) -> list[Server]:
    spec = nb.describe(folder).spec
    own = Server(ENGINE, f"python -m nbdiff_engine generate PROMPT --model {path}", _strategies(spec))
    if spec is not None and not spec.commits_as_ar:
        why = "it is no AR model, and they would decode it wrongly"
        return [own, Server("SGLang", None, why), Server("vLLM", None, why)]
    return [
        own,
        Server("SGLang", f"python -m sglang.launch_server --model-path {path}", "decodes as AR"),
        Server("vLLM", f"vllm serve {path}", "decodes as AR"),
    ]


def _strategies(spec: DiffusionSpec | None) -> str:
    if spec is None:
        return "AR only; it is not adapted to block diffusion"
    return "any strategy" if spec.commits_as_ar else "block_diffusion only"


def _for_lora(folder: Path, path: str) -> list[Server]:
    config = read_json(folder, ADAPTER_CONFIG)
    base = shlex.quote(named_for_servers(beside_adapter(folder, str(config.get("base_model_name_or_path")))))
    # Without a spec of its own it has that of its base, which may not be on this machine.
    about = "as its base"
    if (folder / ADAPTER_SPEC).is_file():
        fields = {CONFIG_KEY: read_json(folder, ADAPTER_SPEC)}
        about = _strategies(DiffusionSpec.from_config(fields, str(folder)))
    own = Server(ENGINE, f"python -m nbdiff_engine generate PROMPT --model {path}", f"{about}; merged when read")
    if not (folder / FOR_SERVERS).is_dir():
        why = f"export it with --to adapter first, which writes its matrices alone to {FOR_SERVERS}/"
        return [own, Server("SGLang", None, why), Server("vLLM", None, why)]
    rank = config.get("r")
    if config.get("use_dora") or not isinstance(rank, int):
        why = "it is a DoRA, which they do not load; export the merged model with --merged"
        return [own, Server("SGLang", None, why), Server("vLLM", None, why)]
    allowed = next((each for each in _VLLM_RANKS if each >= rank), None)
    lora = f"adapter={path}/{FOR_SERVERS}"
    sglang = Server(
        "SGLang",
        f"python -m sglang.launch_server --model-path {base} --enable-lora --lora-paths {lora}",
        "decodes as AR; ask for the LoRA adapter by name",
    )
    if allowed is None:
        why = f"its rank {rank} is above {_VLLM_RANKS[-1]}; export the merged model with --merged"
        return [own, sglang, Server("vLLM", None, why)]
    line = f"vllm serve {base} --enable-lora --max-lora-rank {allowed} --lora-modules {lora}"
    return [own, sglang, Server("vLLM", line, "decodes as AR; ask for the model adapter")]


def named_for_servers(base: str) -> str:
    """A base as other programs know it: the hub id of a packaged model, the folder of a bundled one."""
    if base in PACKAGED_MODELS:
        return PACKAGED_MODELS[base].hub_id
    return str(bundled_models().get(base, base))


def _for_draft_adapter(folder: Path, path: str) -> list[Server]:
    spec = DraftSpec.read(folder, str(folder))
    base = shlex.quote(beside_adapter(folder, spec.base.name))
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
        "uno_lora_path": shlex.split(path)[0],
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
