"""The attention of a run: chosen by device, recipe and base."""

import json

import pytest
import torch

from tests.tiny import tiny_model
from tests.training.runs import losses, small_base, small_data, small_recipe
from training.errors import RecipeError
from training.objective.attention_choice import use_attention
from training.objective.document_attention import DOCUMENTS
from training.run.launch import start


def network(**shape):
    return tiny_model("llama", **shape).network


@pytest.mark.parametrize(
    ("wanted", "device", "dropout", "chosen"),
    [
        ("auto", "cpu", 0.0, "documents"),
        ("auto", "cpu", 0.1, "dense"),
        ("auto", "cuda", 0.0, "flex"),
        ("auto", "cuda", 0.1, "flex"),
        ("auto", "mps", 0.0, "dense"),
        ("dense", "cpu", 0.0, "dense"),
        ("dense", "cuda", 0.1, "dense"),
        ("documents", "cpu", 0.0, "documents"),
    ],
)
def test_the_attention_depends_on_the_recipe_the_device_and_the_dropout(wanted, device, dropout, chosen):
    made = network(attention_dropout=dropout)
    assert use_attention(made, wanted, device) == chosen
    names = {"documents": DOCUMENTS, "flex": "flex_attention", "dense": "sdpa"}
    assert made.config._attn_implementation == names[chosen]
    dropout_after = made.model.layers[0].self_attn.attention_dropout
    assert dropout_after == (0.0 if chosen == "flex" else dropout)


def test_an_attention_that_the_device_or_base_cannot_use_raises_one_sentence():
    with pytest.raises(RecipeError, match="attention is flex, which runs only on cuda"):
        use_attention(network(), "flex", "cpu")
    with pytest.raises(RecipeError, match="attention is documents, which runs only on cpu"):
        use_attention(network(), "documents", "cuda")
    with pytest.raises(RecipeError, match=r"has no dropout, but the base has 0\.1; set attention=dense"):
        use_attention(network(attention_dropout=0.1), "documents", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="documents are the attention of a CPU")
def test_a_run_over_documents_has_the_losses_of_the_dense_mask_and_saves_a_stock_config(tmp_path):
    base, data = small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl")
    found = []
    for attention in ("dense", "auto"):
        folder = tmp_path / attention
        final = start(small_recipe(base, data, attention=attention), folder, resume=False)
        assert DOCUMENTS not in json.dumps(json.loads((final / "config.json").read_text(encoding="utf-8")))
        found.append(losses(folder))
    for dense, documents in zip(*found, strict=True):
        assert documents == pytest.approx(dense, rel=1e-4)


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_a_plain_one(tmp_path):
    base, data = small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl")
    found = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        recipe = small_recipe(base, data, compile=compiled, blocks={"b_max": 2}, saving={"eval_every": 0})
        start(recipe, folder, resume=False)
        found.append(losses(folder))
    for plain, compiled in zip(*found, strict=True):
        assert compiled == pytest.approx(plain, rel=1e-4)
