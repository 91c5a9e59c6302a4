"""Shared fixtures. Everything runs offline, in float32, on tiny models."""

import os

# Set before torch and the hub client are imported: they read these once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import json
from pathlib import Path

import pytest
import torch

import nbdiff_engine as nb
from tests.tiny import FAMILIES, tiny_model, trained_model

torch.set_num_threads(1)  # models this small only lose by more

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_model() -> nb.BlockModel:
    """The small trained checkpoint that the reference outputs were made with."""
    return nb.load(GOLDEN / "tiny-block-diffusion", dtype="float32")


@pytest.fixture(scope="session")
def golden_cases() -> list[dict]:
    """Outputs and per-step states of the authors' own decoding code."""
    return json.loads((GOLDEN / "official_outputs.json").read_text())


@pytest.fixture(scope="session", params=[*FAMILIES, "llama fused", "qwen3 fused", "nano"])
def any_model(request: pytest.FixtureRequest) -> nb.BlockModel:
    """A tiny random model of each family, two of them fused as well, and the bundled one, fused."""
    if request.param == "nano":
        return trained_model()
    family, *fused = request.param.split()
    return tiny_model(family, fused=bool(fused))


@pytest.fixture(scope="session")
def llama() -> nb.BlockModel:
    """A tiny random Llama, for what does not depend on the family."""
    return tiny_model("llama")
