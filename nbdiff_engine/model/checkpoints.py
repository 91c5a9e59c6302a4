"""From a bundled name, a folder or a hub id to a BlockModel. Local first, safetensors only, no remote code."""

import importlib.util
import json
import logging
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from nbdiff_engine.bundled_files import ASSETS
from nbdiff_engine.errors import CheckpointError, SettingError, brief, brief_text
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.families import FAMILIES, NOT_NATIVE, Family
from nbdiff_engine.model.spec import CONFIG_KEY, DiffusionSpec

logger = logging.getLogger(__name__)

BUNDLED_FOLDER = ASSETS / "models"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_REPLY_SECONDS = 5.0

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["8bit", "4bit"]


def bundled_models() -> dict[str, Path]:
    """Name and folder of every checkpoint that comes with the project."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED_FOLDER.glob("*/config.json"))}


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A line of `models`, read from the files without loading them."""

    name: str
    folder: str
    architecture: str
    parameters: int
    dtype: str
    block_size: int | None  # None: an AR checkpoint


def describe_bundled() -> list[BundledModel]:
    """What each bundled checkpoint is."""
    found = []
    for name, folder in bundled_models().items():
        config = _read_config(folder)
        spec = DiffusionSpec.from_config(config, name)
        parameters = 0
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as weights:
                parameters += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
        found.append(
            BundledModel(
                name=name,
                folder=str(folder),
                architecture=(config.get("architectures") or ["unknown"])[0],
                parameters=parameters,
                dtype=_saved_dtype(config, name),
                block_size=None if spec is None else spec.block_size,
            )
        )
    return found


def load(
    name: str | os.PathLike[str],
    dtype: Dtype = "auto",
    device: str = "auto",
    quantization: Quantization | None = None,
    for_training: bool = False,
    fused: bool = True,
) -> BlockModel:
    """Load a checkpoint for decoding.

    name: a bundled name (`bundled_models`), a folder, or a hub id; looked for in that order, and a hub id in
        the local hub cache before the hub is asked.
    dtype: "auto" is the checkpoint's own, except that float16 becomes bfloat16 on a CPU.
    device: "auto" is CUDA where there is one, else the CPU.
    quantization: "8bit" or "4bit" (nf4), through bitsandbytes.
    for_training: keep the weights as the network has them, and 4-bit layers able to pass gradients; decodes slower.
    fused: run layers that `fused_forward` knows in fewer operations; False: as transformers wrote them.

    A checkpoint without a `block_diffusion` entry in its config.json loads as AR-only (`spec` is None).
    Raises CheckpointError or SettingError with one sentence; never loads a checkpoint in part.
    """
    where = resolve_device(device)
    folder = find_checkpoint(name)
    config = _read_config(folder)
    label = folder.name if folder.parent == BUNDLED_FOLDER else str(name)
    family = FAMILIES.get(str(config.get("model_type")))
    _require_safetensors(folder, label)
    tokenizer = _load_tokenizer(folder, label, family)
    if family is not None:
        config = {**config, CONFIG_KEY: family.diffusion_fields(config, getattr(tokenizer, "mask_token_id", None))}
    spec = DiffusionSpec.from_config(config, label)
    options = _weight_options(config, label, dtype, where, quantization)
    network = _load_network(folder, label, config, family, options)
    if for_training and quantization == "4bit":
        keep_gradients_of_4bit_layers(network)  # before the first forward, which BlockModel makes
    bos_before_template = family is not None and family.bos_before_template
    return BlockModel(network, tokenizer, spec, label, bos_before_template, fused=fused and not for_training)


def keep_gradients_of_4bit_layers(network: PreTrainedModel) -> None:
    """Keep bitsandbytes' 4-bit layers in the format that has a backward pass.

    On a CPU with AVX512-BF16, the first forward in eval mode repacks a Linear4bit for a faster forward and rounds
    its scales, after which it passes no gradient to its input: adapters below it learn little or nothing, and the
    loss still falls.
    """
    from bitsandbytes.nn import Linear4bit

    for layer in network.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def resolve_device(device: str) -> torch.device:
    """ "auto" or a torch device string, checked to exist here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved).item()  # "meta" is a device, but holds nothing
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise SettingError(
            f"The device {brief(device)} is not available here; use 'cpu', or leave it at 'auto'."
        ) from error
    return resolved


def find_checkpoint(name: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint, fetched from the hub only where nothing local answers to the name."""
    if not isinstance(name, (str, os.PathLike)) or not isinstance(text := os.fspath(name), str):
        raise CheckpointError(f"The model is {brief(name)}; give a bundled name, a folder or a hub id.")
    if not text.strip():
        raise CheckpointError("The model name is empty; give a bundled name, a folder or a hub id.")
    bundled = bundled_models()
    if text in bundled:
        return bundled[text]
    try:
        path = Path(text).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, of a user who is not there, or with a NUL in it
        is_folder = is_file = False
    if is_folder:
        if not (path / "config.json").is_file():
            raise CheckpointError(f"The folder {text} has no config.json; give the folder that holds the checkpoint.")
        return path.resolve()
    if is_file:
        raise CheckpointError(f"{text} is a file; give the folder that holds the checkpoint's config.json.")
    if HUB_ID.fullmatch(text):
        return _from_hub(text)
    known = ", ".join(bundled) or "none"
    raise CheckpointError(
        f"No model {brief(text)}: not a bundled name ({known}), not a folder, and not a hub id (owner/name)."
    )


def _from_hub(hub_id: str) -> Path:
    """The local snapshot of a hub checkpoint, downloaded if it is not there and the hub can be reached."""
    files = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
    try:
        local = Path(huggingface_hub.snapshot_download(hub_id, local_files_only=True, allow_patterns=files))
        if _is_whole(local):
            return local
    except LocalEntryNotFoundError:
        pass
    not_here = f"The model {hub_id!r} is not in the local hub cache"
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{not_here}, and HF_HUB_OFFLINE is set; download it first, or give a local folder.")
    try:
        # The client itself retries for most of a minute; one short question tells whether anyone is there.
        huggingface_hub.utils.get_session().head(constants.ENDPOINT, timeout=HUB_REPLY_SECONDS)
    except Exception as error:
        raise CheckpointError(f"{not_here}, and the hub cannot be reached; give a local folder instead.") from error
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=files))
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{not_here}, and the hub has no public model of that name.") from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{not_here}, and its download failed: {type(error).__name__}. Try again.") from error


def _is_whole(folder: Path) -> bool:
    """Whether a download is complete: its config, and every file of weights that it or its index names."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return all((folder / shard).is_file() for shard in shards)


def _read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({brief_text(str(error), 120)}); the checkpoint is damaged."
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no JSON object; the checkpoint is damaged.")
    return config


def _require_safetensors(folder: Path, label: str) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
    if pickles:
        raise CheckpointError(
            f"{label} holds its weights as a pickle only ({pickles[0]}), which can run code when it is loaded; "
            "convert it to safetensors first."
        )
    raise CheckpointError(f"{label} has a config.json but no weights (*.safetensors).")


def _saved_dtype(config: dict[str, Any], label: str) -> str:
    """The dtype that config.json names; float32 where it names none."""
    saved = config.get("dtype") or config.get("torch_dtype") or "float32"
    if saved not in ("float32", "bfloat16", "float16", "float64"):
        raise CheckpointError(f"The config.json of {label} names the dtype {brief(saved)}, which is none.")
    return saved


def _weight_options(
    config: dict[str, Any], label: str, dtype: Dtype, device: torch.device, quantization: Quantization | None
) -> dict[str, Any]:
    """Keyword arguments of from_pretrained for dtype, device and quantization."""
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise SettingError(f"dtype is {brief(dtype)}; choose auto, float32, bfloat16 or float16.")
    if quantization not in (None, "8bit", "4bit"):
        raise SettingError(f"quantization is {brief(quantization)}; choose 8bit, 4bit, or leave it out.")
    saved = _saved_dtype(config, label)
    wanted = saved if dtype == "auto" else dtype
    if dtype == "auto" and wanted == "float16" and device.type == "cpu":
        wanted = "bfloat16"
    options: dict[str, Any] = {"dtype": getattr(torch, wanted)}
    if quantization is not None:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise SettingError(f"{quantization} weights need the package bitsandbytes: pip install bitsandbytes.")
        # It warns at every forward of every 8-bit layer that activations are quantised from float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantization == "8bit",
            load_in_4bit=quantization == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=options["dtype"],
        )
    if quantization is not None or device.type != "cpu":
        options["device_map"] = {"": str(device)}
    return options


def _load_network(
    folder: Path, label: str, config: dict[str, Any], family: Family | None, options: dict[str, Any]
) -> PreTrainedModel:
    """The network with every tensor of the checkpoint in its place, or a CheckpointError."""
    if (generation := folder / "generation_config.json").is_file():
        _read_config(folder, generation.name)  # transformers passes over a damaged one, and the EOS with it
    try:
        if family is None:
            stock = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        else:
            stock = AutoConfig.for_model(family.stock_type, **family.stock_config(config))
            options = {**options, "key_mapping": dict(family.key_mapping) or None}
        with _quiet_transformers():
            network, loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                config=stock,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported below, by name, and refused there
                attn_implementation="sdpa",
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # foreign code over foreign files: there is no list of what it can raise
        raise CheckpointError(_why_not(config, label, error)) from error
    problems = {
        "missing": sorted(loaded["missing_keys"]),
        "unexpected": sorted(loaded["unexpected_keys"]),
        "of another shape": sorted(str(key[0]) for key in loaded["mismatched_keys"]),
    }
    for problem, names in problems.items():
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise CheckpointError(
                f"The weights of {label} do not fit {type(network).__name__}: {problem}: {shown}. Nothing was loaded."
            )
    return network


def _why_not(config: dict[str, Any], label: str, error: Exception) -> str:
    """One sentence for a load that failed."""
    model_type = str(config.get("model_type"))
    for name, reason in NOT_NATIVE.items():
        if model_type.lower().startswith(name):
            return f"{label} cannot be decoded here: {reason}."
    text = str(error).strip() or type(error).__name__
    if "trust_remote_code" in text or "does not recognize this architecture" in text:
        return (
            f"{label} is of type {model_type!r}, which is no stock transformers class; "
            "it would need code of its own, which is never run here."
        )
    return f"{label} cannot be loaded: {brief_text(text, 200)}"


def _load_tokenizer(folder: Path, label: str, family: Family | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer, or None, with a warning, where the checkpoint brings none that needs no code of its own."""
    try:
        if family is not None and (folder / "tokenizer.json").is_file():
            # Their tokenizer_config.json names classes of their own; the file itself needs none.
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exceptions
        if family is None:
            raise CheckpointError(
                f"The tokenizer of {label} cannot be loaded: {brief_text(str(error) or type(error).__name__, 200)}"
            ) from error
    logger.warning("%s has no tokenizer.json to load: prompts must be token ids", label)
    return None


class _quiet_transformers:
    """Hold back transformers' own report of a load; ours is the sentence that is raised, or nothing."""

    def __enter__(self) -> None:
        self.verbosity = transformers_logging.get_verbosity()
        self.bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exc_info: object) -> None:
        transformers_logging.set_verbosity(self.verbosity)
        if self.bars:
            transformers_logging.enable_progress_bar()
