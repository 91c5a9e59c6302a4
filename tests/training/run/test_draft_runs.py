"""Whole runs of draft adapters: the folder they write, their acceptance, resuming, quantised bases, two processes."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import nbdiff_engine as nb
from nbdiff_engine.model.draft_spec import DraftSpec, fingerprint_of
from tests.training.bases import write_base
from tests.training.run.processes import adapt
from tests.training.runs import small_data, small_recipe
from training.recipe.recipe import Recipe
from training.run.launch import start
from training.run.run_folder import RunFolder, read_lines

ROOT = Path(__file__).parents[3]
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
BLOCKS = {"kind": "fixed", "b_max": 4}


def draft_recipe(base, data, **sections) -> Recipe:
    lora = {"mode": "draft_only", "rank": 4, "alpha": 16, **sections.pop("lora", {})}
    return small_recipe(base, data, blocks=BLOCKS, lora=lora, **sections)


@pytest.fixture
def sources(tmp_path):
    return write_base(tmp_path / "base", initializer_range=0.05), small_data(tmp_path / "data.jsonl")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupt_at(step: int):
    def interrupt(done):
        if done.step == step:
            raise KeyboardInterrupt

    return interrupt


def test_a_run_writes_an_adapter_that_peft_reads_and_leaves_the_base_as_it_is(sources, tmp_path):
    base, data = sources
    before = bytes_of(base)
    recipe = draft_recipe(base, data, draft={"kl": 0.5, "tv": 1.0, "groups": 2}, optimisation={"max_steps": 12})
    final = start(recipe, tmp_path / "run", resume=False)
    assert bytes_of(base) == before
    names = {path.name for path in final.iterdir()} - {"manifest.json"}
    wanted = {
        "adapter_config.json",
        "adapter_model.safetensors",
        "draft_adapter.json",
        "noise.safetensors",
        "README.md",
    }
    assert names == wanted
    spec = DraftSpec.read(final, "final")
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert (spec.noise, spec.noise_attention, spec.block_size, spec.noise_high) == ("mask", "bidirectional", 4, None)
    assert spec.base.fingerprint == fingerprint_of(plain)
    assert spec.base.parameters == plain.num_parameters()
    assert spec.base.name == str(base)
    assert load_file(final / "noise.safetensors")["mask_embedding"].shape == (32,)
    trained = load_file(tmp_path / "run" / "checkpoints" / "step-00000012" / "trained.safetensors")
    loaded = dict(PeftModel.from_pretrained(plain, final).named_parameters())
    for name, tensor in trained.items():
        if name != "mask_embedding":
            assert torch.equal(loaded[f"base_model.model.{name}"], tensor)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["loss_mdm"] < lines[0]["loss_mdm"]
    for line in lines:
        assert line["loss_ar"] is None
        assert line["loss"] == pytest.approx(line["loss_mdm"] + 0.5 * line["loss_kl"] + line["loss_tv"])
        assert 0 < line["loss_tv"] < 1


def test_acceptance_is_logged_from_step_0_and_the_best_step_has_the_longest_accepted_run(sources, tmp_path, caplog):
    recipe = draft_recipe(*sources, saving={"save_every": 100, "eval_every": 2, "best": "final"})
    with caplog.at_level("INFO"):
        final = start(recipe, tmp_path / "run", resume=False)
    found = RunFolder(tmp_path / "run").all_evaluations()
    assert [each.step for each in found] == [0, 2, 4, 6]
    assert all(len(each.acceptance.by_offset) == 3 and each.acceptance.blocks > 6 for each in found)
    best = max(found[1:], key=lambda each: (each.acceptance.accepted_run, -each.step))
    card = (final / "README.md").read_text(encoding="utf-8")
    assert f"| weights | of step {best.step}: " in card
    assert f"{best.acceptance.accepted_run:.2f}" in card
    assert "right drafts at k = 1..3" in caplog.text


def test_uniform_noise_has_a_range_and_no_embedding(sources, tmp_path):
    recipe = draft_recipe(*sources, draft={"noise": "uniform", "noise_attention": "causal"})
    final = start(recipe, tmp_path / "run", resume=False)
    assert not (final / "noise.safetensors").exists()
    spec = DraftSpec.read(final, "final")
    assert (spec.noise, spec.noise_attention, spec.noise_high) == ("uniform", "causal", 961)


@pytest.mark.parametrize("noise", ["mask", "uniform"])
def test_a_resumed_run_has_the_losses_and_weights_of_an_uninterrupted_one(sources, tmp_path, noise):
    recipe = draft_recipe(*sources, lora={"dropout": 0.1}, draft={"noise": noise, "all_noise": 0.5})
    finals = [start(recipe, tmp_path / "whole", resume=False)]
    with pytest.raises(KeyboardInterrupt):
        start(recipe, tmp_path / "resumed", resume=False, on_step=interrupt_at(5))
    finals.append(start(recipe, tmp_path / "resumed", resume=True))
    one, other = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "resumed"))
    assert [line["loss"] for line in one] == [line["loss"] for line in other]
    names = ["adapter_model.safetensors"] + (["noise.safetensors"] if noise == "mask" else [])
    for name in names:
        assert (finals[0] / name).read_bytes() == (finals[1] / name).read_bytes()


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_base_trains_and_its_adapter_names_the_unquantised_one(tmp_path, quantization):
    base = write_base(tmp_path / "base", dtype=torch.bfloat16, **WIDE)
    data = small_data(tmp_path / "data.jsonl", rows=20)
    recipe = draft_recipe(base, data, quantization=quantization, precision="bf16", optimisation={"max_steps": 3})
    final = start(recipe, tmp_path / "run", resume=False)
    spec = DraftSpec.read(final, "final")
    assert spec.base.fingerprint == fingerprint_of(AutoModelForCausalLM.from_pretrained(base))
    assert {each.dtype for each in load_file(final / "adapter_model.safetensors").values()} == {torch.bfloat16}
    assert all(line["loss"] > 0 for line in read_lines(tmp_path / "run" / "metrics.jsonl"))


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_accumulation(sources, tmp_path):
    recipe = draft_recipe(*sources, optimisation={"rows": 1, "max_steps": 4})
    adapt(recipe, tmp_path / "two", 2)
    alone = recipe.optimisation.model_copy(update={"accumulation": 2})
    start(recipe.model_copy(update={"optimisation": alone}), tmp_path / "one", resume=False)
    one, two = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-4)
    first, second = (RunFolder(tmp_path / name).all_evaluations()[0].acceptance for name in ("one", "two"))
    assert first.by_offset == pytest.approx(second.by_offset)
    assert first.blocks == second.blocks
    config = json.loads((tmp_path / "two" / "final" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["r"] == 4


def test_the_engine_loads_the_adapter_of_a_run_and_its_ar_answers_are_the_bases(sources, tmp_path):
    final = start(draft_recipe(*sources), tmp_path / "run", resume=False)
    plain, adapted = nb.load(str(sources[0])), nb.load(str(sources[0]), adapter=str(final))
    one, other = (nb.generate(each, "red cat", strategy="ar", max_new_tokens=24) for each in (plain, adapted))
    assert one.token_ids == other.token_ids
