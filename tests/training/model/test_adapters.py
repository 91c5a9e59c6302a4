"""LoRA: which tensors are trained on plain and quantised bases, and the merged checkpoint."""

import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import nbdiff_engine as nb
from nbdiff_engine.model import checkpoints
from tests.tiny import FAMILIES, in_part_slow
from tests.training.bases import ENTRIES, rename_entries, write_base
from tests.training.packs import answer, packed
from tests.training.runs import losses, small_data, small_recipe
from training.errors import RecipeError
from training.model import adapters as adapters_module
from training.model.adapters import add_adapters, merged
from training.model.base import load_base, with_spec
from training.objective.noising import Noising, noise
from training.objective.objective import Objective
from training.recipe.recipe import Lora
from training.run.evaluating import evaluate
from training.run.launch import load_network, make_accelerator, make_trainable, start
from training.run.log_lines import StepFigures
from training.run.run_folder import RunFolder

MASK = 1
# 4-bit weights come in blocks of 64 and, on some CPUs, in groups of 32 rows; 8-bit kernels want multiples of 16.
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}


def adapted(folder, lora=None, quantization=None):
    """A base with adapters, built as in a run. Returns the model and the PeftModel that wraps its network."""
    model = with_spec(load_base(str(folder), quantization=quantization, device="cpu"), 8, "token_causal", True)
    adapters = add_adapters(model.network, lora or Lora(rank=4), model.spec.mask_token_id, 0)
    model.network.train()
    return model, adapters


def batch(mask=MASK):
    rows = packed(answer(5, 20), answer(7, 17, seed=1))
    return noise(rows, Noising(8, mask, ending_ids=frozenset([2])), torch.Generator().manual_seed(0))


def perturb(network, scale=0.05):
    """Add noise to the trainable tensors. Without it adapters have no effect: lora_B starts at zero."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=draw)


def gradients(network, accelerator=None):
    """The gradient of the sum of both losses for each trainable tensor that has one, and all trainable tensors."""
    network.zero_grad()
    objective = Objective(network) if accelerator is None else accelerator.prepare(Objective(network))
    found = objective(batch())
    (found.mdm_sum + 0.5 * found.ar_sum).backward()
    trained = {name: each for name, each in network.named_parameters() if each.requires_grad}
    assert all(each.grad is None for each in network.parameters() if not each.requires_grad)
    return {name: each.grad.clone() for name, each in trained.items() if each.grad is not None}, trained


def logits(network):
    ids = torch.tensor([[5, 6, MASK, 8, MASK, 9, 10]])
    with torch.no_grad():
        return network.eval()(input_ids=ids).logits


def all_have_gradients(network):
    found, trained = gradients(network)
    return found.keys() == trained.keys() and all(each.abs().max() > 0 for each in found.values())


# -- what is trained --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", in_part_slow(FAMILIES))
def test_only_adapters_and_the_mask_row_are_trained(tmp_path, family):
    model, _ = adapted(write_base(tmp_path, family))
    perturb(model.network)
    found, trained = gradients(model.network)
    assert found.keys() == trained.keys()
    assert all(each.abs().max() > 0 for each in found.values())
    assert {each.dtype for each in trained.values()} == {torch.float32}
    kinds = {"lora_A" if "lora_A" in name else "lora_B" if "lora_B" in name else name for name in trained}
    assert kinds == {"lora_A", "lora_B", "model.embed_tokens.token_adapter.trainable_tokens_delta.default"}
    layers = {name.split(".lora_")[0] for name in trained if "lora_" in name}
    linear = {name for name, module in nb.load(tmp_path).network.named_modules() if type(module) is torch.nn.Linear}
    assert layers == linear - {"lm_head"}


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_are_float32_on_a_bfloat16_base(tmp_path, tied):
    model, _ = adapted(write_base(tmp_path, dtype=torch.bfloat16, tie_word_embeddings=tied))
    dtypes = {each.requires_grad: each.dtype for each in model.network.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    perturb(model.network)
    assert all_have_gradients(model.network)


def test_before_the_first_step_an_adapted_network_has_the_logits_of_its_base(tmp_path):
    folder = write_base(tmp_path)
    model, _ = adapted(folder)
    torch.testing.assert_close(logits(model.network), logits(nb.load(folder).network))


def test_rank_alpha_dropout_and_targets_are_those_of_the_recipe(tmp_path):
    lora = Lora(rank=3, alpha=12, dropout=0.25, targets=("q_proj", "mlp.down_proj"))
    model, _ = adapted(write_base(tmp_path), lora)
    layers = {name: each for name, each in model.network.named_modules() if hasattr(each, "lora_A")}
    assert {name.rsplit(".", 1)[-1] for name in layers} == {"q_proj", "down_proj"}
    for layer in layers.values():
        assert layer.lora_A["default"].weight.shape[0] == 3
        assert layer.scaling["default"] == 4
        assert layer.lora_dropout["default"].p == 0.25


@pytest.mark.parametrize("family", in_part_slow(FAMILIES))
def test_a_tied_head_computes_the_logits_of_mask_apart_with_pefts_losses_and_gradients(tmp_path, family, monkeypatch):
    folder = write_base(tmp_path, family, tie_word_embeddings=True)
    found = []
    for apart in (True, False):
        with monkeypatch.context() as patched:
            if not apart:
                patched.setattr(adapters_module, "_compute_mask_logits_apart", lambda network: None)
            model, _ = adapted(folder)
        perturb(model.network)
        layer = model.network.get_output_embeddings().token_adapter
        copied = []
        original = layer.get_merged_weights
        monkeypatch.setattr(layer, "get_merged_weights", lambda *args, f=original, c=copied: c.append(1) or f(*args))
        losses_found = Objective(model.network)(batch())
        assert bool(copied) != apart
        found.append((losses_found, gradients(model.network)[0], logits(model.network)))
    (one, gradient, scores), (other, expected, reference) = found
    torch.testing.assert_close(one.mdm_sum, other.mdm_sum, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.ar_sum, other.ar_sum, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores, reference, rtol=1e-5, atol=1e-5)
    assert gradient.keys() == expected.keys()
    for name, each in expected.items():
        torch.testing.assert_close(gradient[name], each, rtol=1e-5, atol=1e-5 * each.abs().max().item(), msg=name)


@pytest.mark.parametrize("targets", ["v_proj", ("v_proj",)])
def test_a_single_target_can_be_a_string(tmp_path, targets):
    _, adapters = adapted(write_base(tmp_path), Lora(rank=2, targets=targets))
    assert sum(hasattr(each, "lora_A") for each in adapters.modules()) == 2


@pytest.mark.parametrize("targets", ["nonesuch", ("q_proj", "nonesuch"), "lm_head", "embed_tokens", "mlp", (), ""])
def test_targets_that_name_no_linear_layer_raise_one_sentence(tmp_path, targets):
    with pytest.raises(RecipeError, match=r"lora.targets names '.*', and no layer .* some of q_proj, k_proj") as error:
        adapted(write_base(tmp_path), Lora(targets=targets))
    assert "\n" not in str(error.value)


def test_quantisation_without_lora_raises_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="quantised weights are frozen; add a lora section"):
        small_recipe(tmp_path, tmp_path, quantization="4bit")


# -- the merge --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", in_part_slow(FAMILIES))
def test_a_merged_network_has_the_logits_of_the_adapted_one(tmp_path, family, tied):
    folder = write_base(tmp_path / "base", family, tie_word_embeddings=tied)
    model, adapters = adapted(folder)
    perturb(model.network)
    before = logits(model.network)
    row = model.network.get_input_embeddings().weight[MASK].detach().clone()
    recipe = small_recipe(folder, folder, lora={"rank": 4})
    network = merged(adapters, model, recipe, torch.float32)
    model = model.__class__(**{name: getattr(model, name) for name in model.__slots__} | {"network": network})
    model.save(tmp_path / "final")
    back = nb.load(tmp_path / "final")
    torch.testing.assert_close(logits(back.network), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(back.network.get_input_embeddings().weight[MASK], row)
    plain = nb.load(folder).network.state_dict()
    assert back.network.state_dict().keys() == plain.keys()
    assert not torch.equal(plain["model.embed_tokens.weight"][MASK], row)
    assert back.network.config.tie_word_embeddings == tied


def test_a_bfloat16_base_is_merged_in_float32_and_rounded_once(tmp_path):
    folder = write_base(tmp_path / "base", dtype=torch.bfloat16)
    recipe = small_recipe(folder, folder, lora={"rank": 4})
    name = "model.layers.0.mlp.up_proj"
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model, adapters = adapted(folder)
        perturb(model.network)
        layer = model.network.get_submodule(name)
        exact = layer.base_layer.weight.float() + layer.get_delta_weight("default")
        found[dtype] = merged(adapters, model, recipe, dtype).state_dict()
        assert {each.dtype for each in found[dtype].values()} == {dtype}
        torch.testing.assert_close(found[torch.float32][f"{name}.weight"], exact.detach())
    for key, tensor in found[torch.float32].items():
        assert torch.equal(found[torch.bfloat16][key], tensor.bfloat16())


# -- quantised bases --------------------------------------------------------------------------------------


def dequantised(layer):
    from bitsandbytes import functional

    if layer.weight.dtype == torch.uint8:
        return functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.state.CB.float() * layer.state.SCB.unsqueeze(1) / 127


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_on_a_quantised_base_are_the_same_after_an_evaluation(tmp_path, quantization, dtype):
    """In float32 they also equal the gradients of a plain network with the dequantised weights."""
    folder = write_base(tmp_path, dtype=dtype, **WIDE)
    model, _ = adapted(folder, quantization=quantization)
    quantised = {name: each.base_layer for name, each in model.network.named_modules() if hasattr(each, "lora_A")}
    assert {type(each).__name__ for each in quantised.values()} <= {"Linear4bit", "Linear8bitLt"}
    perturb(model.network)
    before, trained = gradients(model.network)
    assert before.keys() == trained.keys()
    assert all(each.abs().max() > 0 and each.isfinite().all() for each in before.values())
    recipe = small_recipe(folder, folder, lora={"rank": 4}, quantization=quantization)
    accelerator = make_accelerator(recipe, RunFolder(tmp_path / "run"))
    figures = evaluate(Objective(model.network), [batch()], accelerator)
    assert all(math.isfinite(each) for each in (figures.loss_mdm, figures.loss_ar))
    assert model.network.training
    after, _ = gradients(model.network)
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient)
    if dtype == torch.float32:
        plain, _ = adapted(folder)
        perturb(plain.network)
        with torch.no_grad():
            for name, layer in quantised.items():
                plain.network.get_submodule(name).base_layer.weight.copy_(dequantised(layer))
        for name, gradient in gradients(plain.network)[0].items():
            torch.testing.assert_close(before[name], gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())


def test_without_the_workaround_gradients_of_4_bit_layers_are_lost(tmp_path, monkeypatch):
    """If this fails, bitsandbytes has fixed the bug: remove keep_gradients_of_4bit_layers."""
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16")
    folder = write_base(tmp_path, **WIDE)
    monkeypatch.setattr(checkpoints, "keep_gradients_of_4bit_layers", lambda network: None)
    model, _ = adapted(folder, quantization="4bit")
    found, trained = gradients(model.network)  # lora_B is zero, so no gradient passes through the adapters
    lost = [name for name in trained if "lora_B" in name and (name not in found or not found[name].any())]
    assert lost
    monkeypatch.undo()
    model, _ = adapted(folder, quantization="4bit")
    found, trained = gradients(model.network)
    assert all(found[name].any() for name in trained if "lora_B" in name)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantised_base_trains_under_bf16_autocast(tmp_path, quantization, dtype):
    folder = write_base(tmp_path / "base", dtype=dtype, **WIDE)
    recipe = small_recipe(folder, folder, lora={"rank": 4}, quantization=quantization, precision="bf16")
    accelerator = make_accelerator(recipe, RunFolder(tmp_path / "run"))
    model, _ = make_trainable(recipe, load_network(recipe, "run", accelerator.device))
    perturb(model.network)
    for _ in range(2):
        found, trained = gradients(model.network, accelerator)
        assert found.keys() == trained.keys()
        assert all(each.any() and each.isfinite().all() for each in found.values())
        assert {each.dtype for each in found.values()} == {torch.float32}
        evaluate(accelerator.prepare(Objective(model.network)), [batch()], accelerator)


@pytest.mark.parametrize("quantization", [None, "4bit", "8bit"])
def test_a_lora_run_writes_a_plain_checkpoint_in_the_dtype_of_its_base(tmp_path, quantization):
    base = write_base(tmp_path / "base", dtype=torch.bfloat16, tie_word_embeddings=False, **WIDE)
    rename_entries(base, {"<mask>": "qq"})  # MASK is a new row
    recipe = small_recipe(
        base,
        small_data(tmp_path / "data.jsonl", rows=20),
        lora={"rank": 4},
        quantization=quantization,
        precision="bf16",
        optimisation={"max_steps": 3},
        saving={"save_every": 2, "eval_every": 2},
    )
    final = start(recipe, tmp_path / "run", resume=False)
    assert (final / "README.md").exists()
    with safe_open(final / "model.safetensors", framework="pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    assert {each.dtype for each in tensors.values()} == {torch.bfloat16}
    assert not any("lora" in name or "quant" in name or "SCB" in name for name in tensors)
    model = nb.load(final, dtype="bfloat16")
    assert model.spec.mask_token_id == ENTRIES
    assert not hasattr(model.network.config, "quantization_config")
    trained = load_file(tmp_path / "run" / "checkpoints" / "step-00000003" / "trained.safetensors")
    row = trained["model.embed_tokens.token_adapter.trainable_tokens_delta.default"][0]
    assert torch.equal(model.network.get_input_embeddings().weight[ENTRIES], row.bfloat16())
    before = load_file(base / "model.safetensors")
    name = "model.layers.1.self_attn.o_proj"
    delta = 8 * trained[f"{name}.lora_B.default.weight"] @ trained[f"{name}.lora_A.default.weight"]  # 32 / 4
    assert delta.any()
    torch.testing.assert_close(tensors[f"{name}.weight"], (before[f"{name}.weight"] + delta).bfloat16())
    output = nb.generate(model, "red cat", strategy="block_diffusion", max_new_tokens=16)
    assert output.token_ids


# -- resuming ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", [None, "4bit"])
def test_a_resumed_lora_run_has_the_same_losses(tmp_path, quantization):
    base = write_base(tmp_path / "base", tie_word_embeddings=False, **WIDE)
    rename_entries(base, {"<mask>": "qq"})
    recipe = small_recipe(
        base,
        small_data(tmp_path / "data.jsonl", rows=20),
        lora={"rank": 4, "dropout": 0.1},
        quantization=quantization,
    )
    start(recipe, tmp_path / "uninterrupted", resume=False)

    def interrupt(done: StepFigures) -> None:
        if done.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(recipe, tmp_path / "resumed", resume=False, on_step=interrupt)
    saved = tmp_path / "resumed" / "checkpoints" / "step-00000004"
    names = load_file(saved / "trained.safetensors").keys()
    assert not (saved / "model.safetensors").exists()
    assert all("lora_" in name or "trainable_tokens" in name for name in names)
    start(recipe, tmp_path / "resumed", resume=True)
    resumed = losses(tmp_path / "resumed")
    assert [line[0] for line in resumed] == [1, 2, 3, 4, 5, 6]
    assert resumed == losses(tmp_path / "uninterrupted")
    folders = (tmp_path / name / "final" for name in ("uninterrupted", "resumed"))
    one, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(one[name], other[name]) for name in one)
