"""Draft adapters with random weights, written as the training side writes them, and tiny models that have one."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

from nbdiff_engine import BlockModel
from nbdiff_engine.model.draft_adapter import DraftAdapter
from nbdiff_engine.model.draft_spec import MASK_EMBEDDING, NOISE_WEIGHTS, BaseIdentity, DraftSpec, fingerprint_of
from tests.tiny import VOCABULARY, tiny_model

ALL_LINEAR = "all-linear"


def identity_of(network: nn.Module, name: str) -> BaseIdentity:
    count = sum(each.numel() for each in network.parameters())
    return BaseIdentity(
        name=name, model_type=network.config.model_type, parameters=count, fingerprint=fingerprint_of(network)
    )


def write_draft_adapter(
    folder: Path,
    network: nn.Module,
    base: str,
    noise: str = "mask",
    noise_attention: str = "bidirectional",
    block_size: int = 6,
    targets: str | list[str] = ALL_LINEAR,
    scale: float = 0.3,
    seed: int = 0,
    **options,
) -> Path:
    """Write an adapter whose A and B are random. The network is unchanged afterwards. scale: of B; 0: no effect."""
    identity = identity_of(network, base)
    torch.manual_seed(seed)
    # Of full rank, so that no part of a layer's output is without a change.
    adapted = get_peft_model(
        network, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets, **options)
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn_like(weight) * scale)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    plain = adapted.unload()
    for weight in plain.parameters():
        weight.requires_grad_(True)
    if noise == "mask":
        embedding = torch.randn(network.get_input_embeddings().weight.shape[1])
        save_file({MASK_EMBEDDING: embedding}, folder / NOISE_WEIGHTS)
    DraftSpec(
        noise=noise,
        noise_attention=noise_attention,
        block_size=block_size,
        noise_high=VOCABULARY if noise == "uniform" else None,
        base=identity,
    ).write(folder)
    return folder


def tiny_drafter(
    family: str, fused: bool = False, shape: dict | None = None, **adapter
) -> tuple[BlockModel, BlockModel]:
    """A tiny random AR model, and the same with a random draft adapter, each with a network of its own."""
    plain, other = (tiny_model(family, fused=which and fused, **(shape or {})) for which in (True, False))
    base = BlockModel(plain.network, None, None, "base", fused=fused)
    network = other.network
    with TemporaryDirectory() as folder:
        write_draft_adapter(Path(folder), network, f"tiny-{family}", **adapter)
        spec = DraftSpec.read(Path(folder), "tiny").diffusion_spec(VOCABULARY)
        draft = DraftAdapter.read(network, Path(folder), spec.mask_token_id, "tiny")
    return base, BlockModel(network, None, spec, f"tiny-{family}-draft", fused=fused, draft=draft)
