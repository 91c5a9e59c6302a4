"""Attention over documents has the losses and gradients of the dense mask, with every option of a run."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nbdiff_engine.errors import SettingError
from tests.tiny import FAMILIES, MASK, SHAPE, tiny_model
from tests.training.packs import answer, packed, random_batch
from training.model.adapters import add_adapters
from training.objective.document_attention import DOCUMENTS, attend
from training.objective.noising import Noising, noise
from training.objective.objective import Objective
from training.recipe.recipe import Lora

CONTEXTS = ("token_causal", "block_causal")


def both(network, batch, context="token_causal", open_future=None, autocast=False):
    """(losses, gradients) with the dense mask, and with attention over documents."""
    found = []
    for attention in ("sdpa", DOCUMENTS):
        network.set_attn_implementation(attention)
        network.zero_grad()
        objective = Objective(network, context)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = objective(batch, open_future)
        (losses.mdm_sum + 0.5 * losses.ar_sum).backward()
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        found.append((losses, gradients))
    network.set_attn_implementation("sdpa")
    return found


def assert_same(network, batch, context="token_causal", open_future=None):
    (dense, expected), (documents, got) = both(network, batch, context, open_future)
    assert (documents.mdm_count, documents.ar_count) == (dense.mdm_count, dense.ar_count)
    torch.testing.assert_close(documents.mdm_sum, dense.mdm_sum, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(documents.ar_sum, dense.ar_sum, rtol=1e-5, atol=1e-4)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item() + 1e-3
        torch.testing.assert_close(
            got[name], gradient, rtol=1e-3, atol=1e-4 * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("context", CONTEXTS)
def test_losses_and_gradients_equal_those_of_the_dense_mask(cut, context):
    network = tiny_model("llama").network
    for seed in range(12):
        assert_same(network, random_batch(seed, context), context)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(cut, family):
    assert_same(tiny_model(family).network, random_batch(3))


@pytest.mark.parametrize("heads", [(4, 4), (4, 1), (8, 2)])
def test_any_number_of_key_value_heads(cut, heads):
    shape = {"num_attention_heads": heads[0], "num_key_value_heads": heads[1]}
    assert_same(tiny_model("llama", **shape).network, random_batch(4))


@pytest.mark.parametrize(
    "options",
    [{"complementary": True}, {"at_least_one": True}, {"multiple": 32}, {"shift": 0}, {"ending_ids": frozenset()}],
    ids=str,
)
def test_every_option_of_noising(cut, options):
    network = tiny_model("qwen3").network
    for seed in (5, 6, 7):
        assert_same(network, random_batch(seed, **options))


def test_an_annealed_mask(cut):
    network = tiny_model("llama").network
    for seed in (8, 9, 10):
        batch = random_batch(seed)
        for share in (0.0, 0.5):
            opened = torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(seed)) < share
            assert_same(network, batch, open_future=opened)


def test_recomputed_layers(cut):
    network = tiny_model("llama").network.train()
    network.activation_checkpointing_enable()
    assert_same(network, random_batch(11))


def test_adapters(cut):
    network = tiny_model("llama").network.train()
    add_adapters(network, Lora(rank=4), MASK, 0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:  # starts at zero, which makes the gradients of lora_A zero
            torch.nn.init.normal_(parameter, std=0.2)
    assert_same(network, random_batch(12))


def test_under_autocast_the_error_is_that_of_the_dense_mask(cut):
    network = tiny_model("llama", initializer_range=0.1).network
    batch = random_batch(13)
    exact = both(network, batch)[0][1]
    (_, dense), (_, documents) = both(network, batch, autocast=True)

    def error_of(found):
        return sum((found[name].float() - exact[name]).square().sum().item() for name in exact) ** 0.5

    assert 0 < error_of(documents) < 1.5 * error_of(dense)


def test_rows_of_padding_only(cut):
    rows = packed(answer(3, 6), length=16, rows=2)
    for some in (rows, rows.rows(1, 2)):
        assert_same(tiny_model("llama").network, noise(some, Noising(4, MASK), torch.Generator().manual_seed(0)))


def test_a_compiled_objective_does_not_trace_the_attention_and_takes_any_plan(cut):
    config = AutoConfig.for_model("llama", **SHAPE)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    frames = []

    def backend(graph, inputs):
        frames.append(graph)
        return graph.forward

    plain, compiled = Objective(network), Objective(network)
    network.set_attn_implementation(DOCUMENTS)
    batches = [batch for batch in map(random_batch, range(20, 30)) if batch.mdm_targets.numel()][:5]
    expected = [plain(batch).mdm_sum.item() for batch in batches]
    torch._dynamo.reset()
    compiled.body.compile(dynamic=True, backend=backend)
    got = [compiled(batch).mdm_sum.item() for batch in batches]
    assert got == pytest.approx(expected, rel=1e-5)
    assert len(frames) <= 3  # torch compiles again for a size of 1, which it treats as a constant
    assert all(any("document_attention" in str(node.target) for node in graph.graph.nodes) for graph in frames)
    torch._dynamo.reset()


def test_attention_without_a_plan_or_with_dropout_raises_an_error():
    network = tiny_model("llama").network
    network.set_attn_implementation(DOCUMENTS)
    with pytest.raises(SettingError, match="attention=dense"):
        network(input_ids=torch.tensor([[3, 4, 5]]))
    query = torch.zeros(1, 2, 3, 8)
    with pytest.raises(SettingError, match="attention=dense"):
        attend(network, query, query, query, None, dropout=0.1)
