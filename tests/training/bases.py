"""Random AR checkpoints of any family, dtype and shape, and changes to their tokenizers."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from tests.conftest import GOLDEN
from tests.tiny import SHAPE

ENTRIES = 961  # of the golden tokenizer; EOS is 0, MASK is 1


def write_base(
    folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **shape: Any
) -> Path:
    """A random checkpoint without a spec, with the golden tokenizer and its mask token."""
    fields = {**SHAPE, "vocab_size": ENTRIES, "eos_token_id": 0, "initializer_range": 0.1, **shape}
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields), dtype=dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(GOLDEN / "tiny-block-diffusion").save_pretrained(folder)
    return folder


def rename_entries(folder: Path, names: dict[str, str], template: str | None = None) -> PreTrainedTokenizerBase:
    """Rename entries of a checkpoint's tokenizer, including <mask>, and remove its mask token.

    A new name in angle or square brackets becomes a special token, as reserved entries are.
    """
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    for old, new in names.items():
        vocabulary[new] = vocabulary.pop(old)
        content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] != old]
        if new[0] in "<[":
            fields = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            content["added_tokens"].append({"id": vocabulary[new], "content": new, **fields})
    content["added_tokens"].sort(key=lambda each: each["id"])
    path.write_text(json.dumps(content), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("added_tokens_decoder", None)
    config.pop("mask_token", None)
    path.write_text(json.dumps(config), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.mask_token is None
    return tokenizer
