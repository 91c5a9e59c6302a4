"""Estimates: exact parameter counts, and peak memory compared with a measured run."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from nbdiff_engine.errors import SettingError
from tests.tiny import SHAPE
from tests.training.bases import ENTRIES, rename_entries, write_base
from tests.training.runs import WORDS, small_base, small_data, small_recipe, written
from training.objective.objective import chunk_rows
from training.planning.costs import MEMORY_MARGIN
from training.planning.estimate import estimate
from training.planning.estimate_table import table
from training.recipe.block_schedule import BlockGrowth
from training.recipe.recipe import Recipe
from training.recipe.recipe_fields import bundled_recipes
from training.run.launch import make_trainer

ROOT = Path(__file__).parents[3]
NANO = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4}
NANO |= {"num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1536, "max_position_embeddings": 1024}
NANO |= {"tie_word_embeddings": True, "initializer_range": 0.02}


@pytest.mark.parametrize("name", list(bundled_recipes()))
def test_every_bundled_recipe_can_be_estimated_offline(name, tmp_path):
    recipe = Recipe.read(name)
    if recipe.kind == "adapt" and not (recipe.base or "").startswith(("Qwen/", "openpangu/")):
        recipe = recipe.model_copy(update={"base": str(write_base(tmp_path / "base"))})
    found = estimate(recipe, flops=1e12)
    assert 0 < found.memory.weights < found.memory.peak
    assert 0 < found.seconds < found.max_steps * found.seconds_per_step_last * 1.0001
    json.dumps(found.to_json())
    assert found.model in table(found, "cpu")


def test_a_split_model_has_a_part_of_everything_in_each_process():
    recipe = Recipe.read("pangu-7b-paper")
    whole, split = (
        estimate(recipe.model_copy(update={"shard": shard}), "cuda", flops=4e14, processes=8) for shard in (False, True)
    )
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(split.memory, name) == -(-getattr(whole.memory, name) // 8)
    # Embedding and head (untied), and two layers, in bfloat16; float32 gradients of the former and of one layer.
    outside, layer = 2 * 153376 * 4096, whole.parameters // 41
    assert split.memory.exchange > 6 * outside + 8 * layer
    assert split.memory.exchange < whole.memory.exchange / 3
    assert split.memory.peak < whole.memory.peak / 3
    assert split.seconds == whole.seconds
    alone = estimate(recipe.model_copy(update={"shard": True}), "cuda", flops=4e14)
    assert alone.memory.weights == whole.memory.weights


def test_lora_has_few_trained_parameters_and_needs_less_memory():
    recipe = Recipe.read("qwen3-0.6b-lora", ["precision=bf16"])
    lora, full = (estimate(each, flops=1e12) for each in (recipe, recipe.model_copy(update={"lora": None})))
    # (in + out) x rank of q, k, v, o, gate, up and down, and the row of MASK
    per_layer = (1024 + 2048) + 2 * (1024 + 1024) + (2048 + 1024) + 3 * (1024 + 3072)
    assert lora.trained_parameters == 28 * 32 * per_layer + 1024
    assert full.trained_parameters == full.parameters == 596_049_920
    assert lora.memory.weights < full.memory.weights * 0.6
    assert full.memory.optimizer == 8 * 596_049_920
    # Without what the CPU's allocator keeps, which is more with LoRA.
    lora_peak, full_peak = (each.memory.peak - each.memory.allocator for each in (lora, full))
    assert lora_peak < full_peak / 3
    assert lora.work_last.layers < full.work_last.layers


def test_the_cost_of_each_option():
    recipe = Recipe.read("qwen3-0.6b-lora", ["lora=null", "optimisation.gradient_checkpointing=false"])

    def found(*overrides: str):
        settings = ["lora=null", "optimisation.gradient_checkpointing=false", *overrides]
        return estimate(Recipe.read("qwen3-0.6b-lora", settings), flops=1e12)

    plain = estimate(recipe, flops=1e12)
    checkpointed = found("optimisation.gradient_checkpointing=true")
    assert checkpointed.memory.activations < plain.memory.activations / 10
    assert checkpointed.work_last.total > plain.work_last.total
    assert found("optimisation.optimizer=muon").memory.optimizer < plain.memory.optimizer
    assert found("optimisation.rows=2").memory.activations == 2 * plain.memory.activations
    assert found("objective.complementary_masks=true").memory.activations == 2 * plain.memory.activations
    assert found("precision=fp32").memory.weight_copies == 0
    # At block size 1 there is no noised copy, so half as many tokens go through the layers.
    assert plain.work_last.layers == 2 * plain.work_first.layers
    assert estimate(recipe, flops=1e12, processes=4).tokens_per_step == 4 * plain.tokens_per_step
    assert estimate(recipe, flops=2e12).seconds == pytest.approx(plain.seconds / 2)
    assert estimate(recipe, flops=1e12, noised_share=0.5).noised_tokens == plain.noised_tokens // 2


def test_the_head_has_three_float32_values_for_each_logit_of_a_chunk():
    """By mallinfo2: 12 bytes per logit at the peak of the loss of one chunk and its backward pass."""
    memory = estimate(Recipe.read("qwen3-0.6b-lora", ["precision=fp32"]), flops=1e12).memory
    assert memory.head == 12 * chunk_rows(151_936) * 151_936


def test_checkpointed_layers_leave_free_memory_that_the_allocator_keeps():
    def allocator(*overrides: str) -> int:
        settings = ["precision=fp32", "optimisation.packed_length=512", *overrides]
        return estimate(Recipe.read("qwen3-0.6b-lora", settings), flops=1e12).memory.allocator

    checkpointed = "optimisation.gradient_checkpointing=true"
    assert allocator(checkpointed) > 2**28
    assert allocator("optimisation.gradient_checkpointing=false") <= 2**28
    assert allocator(checkpointed, "lora=null") <= 2**28


def test_fewer_bits_take_less_memory():
    plain, eight, four = (
        estimate(Recipe.read("qwen3-0.6b-lora", [f"quantization={each}"]), flops=1e12).memory.weights
        for each in ("null", "8bit", "4bit")
    )
    assert plain > eight > four


def test_flex_attention_skips_tiles_and_the_dense_mask_does_not():
    """In a row of one long document: half of the pairs with clean tokens, of four times as many in the dense mask."""
    recipe = Recipe.read("qwen3-0.6b-lora", ["optimisation.packed_length=8192"])
    flex = estimate(recipe, "cuda", 1e12).work_last.attention
    dense = estimate(recipe.model_copy(update={"attention": "dense"}), "cuda", 1e12).work_last.attention
    assert 3.5 < dense / flex < 4


def test_evaluations_and_the_writing_of_data_take_time():
    recipe = Recipe.read("qwen3-0.6b-lora")
    found = estimate(recipe, flops=1e12)
    # Every answer of 512 tokens, and a forward of each weight for each token.
    assert found.seconds_writing == pytest.approx(2 * 596_049_920 * 8192 * 512 / 1e12)
    assert found.seconds_in_all == found.seconds + found.seconds_evaluating + found.seconds_writing
    assert "writing data" in table(found, "cpu")
    rarely, first, often = (
        estimate(
            Recipe.read("qwen3-0.6b-lora", [f"saving.eval_every={each}", "blocks.kind=fixed"]), flops=1e12
        ).seconds_evaluating
        for each in (0, 1000, 100)
    )
    # Of 1,000 steps: at the end only, also before the first step, and also before that of every 100.
    assert often - rarely == pytest.approx(10 * (first - rarely))
    # 64 rows at the last block size, a forward each, beside 8 rows of a step with its backward.
    assert 0.2 < (first - rarely) / (8 * found.seconds_per_step_last) < 0.7
    assert estimate(Recipe.read("smoke"), flops=1e12).seconds_writing == 0


def test_tokens_are_counted_in_the_data(tmp_path, run):
    base, data = small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl")
    recipe = small_recipe(base, data, optimisation={"packed_length": 128})
    assumed, counted = estimate(recipe, flops=1e12), estimate(recipe, flops=1e12, from_data=True)
    assert assumed.clean_tokens == assumed.noised_tokens == 128
    assert 90 < counted.clean_tokens < 128
    assert counted.memory.activations < assumed.memory.activations
    assert counted.work_last.attention < assumed.work_last.attention / 2  # several documents a row
    arguments = ["--recipe", str(written(recipe, tmp_path / "recipe.yaml")), "--flops", "1e12"]
    code, out, _ = run("estimate", *arguments, "--data", str(data), "--json")
    assert code == 0
    assert json.loads(out)["clean_tokens"] == counted.clean_tokens
    assert "noised tokens per clean token" in json.loads(out)["about_data"]
    _, out, _ = run("estimate", *arguments)
    assert "not counted" in out
    code, out, err = run("estimate", *arguments, "--data", str(tmp_path / "none.jsonl"))
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_few_documents_hold_out_fewer(tmp_path):
    base, data = small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl", rows=40)
    wanted, held_out = (
        estimate(small_recipe(base, data, data={"held_out": each}), flops=1e12, from_data=True).seconds_evaluating
        for each in (64, 4)  # a tenth of 40 is 4
    )
    assert wanted == held_out > 0


def test_an_embedding_that_a_new_mask_replaces_stays_in_memory(tmp_path):
    data = small_data(tmp_path / "data.jsonl")
    own, new = write_base(tmp_path / "own"), write_base(tmp_path / "new")
    rename_entries(new, {"<mask>": "qq"})
    peaks = [estimate(small_recipe(each, data), flops=1e12, from_data=True).memory.peak for each in (own, new)]
    assert peaks[1] - peaks[0] == ENTRIES * SHAPE["hidden_size"] * 4


def test_the_steps_of_epochs_are_counted_in_the_data(tmp_path, run):
    base, data = small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl", rows=30)
    fields = small_recipe(base, data).model_dump(mode="json")
    del fields["optimisation"]["max_steps"]
    fields["optimisation"]["epochs"] = 2
    recipe = Recipe.model_validate(fields)
    found = estimate(recipe, flops=1e12)
    assert found.max_steps == make_trainer(recipe, tmp_path / "run", resume=False).recipe.optimisation.max_steps
    assert estimate(recipe, flops=1e12, processes=2).max_steps == pytest.approx(found.max_steps / 2, abs=1)
    without = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": None})})
    (tmp_path / "recipe.yaml").write_text(without.to_yaml())
    code, _, err = run("estimate", "--recipe", str(tmp_path / "recipe.yaml"), "--flops", "1e12")
    assert code == 2
    assert "optimisation.epochs is 2, whose steps are counted in the data; give --data" in err


def test_a_block_size_that_the_run_does_not_reach_costs_nothing(tmp_path):
    recipe = small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl", rows=30))
    ends = {}
    for last in (50, 5):
        blocks = BlockGrowth(kind="list", sizes=(1, 2, 16), starts=(0, 2, last), b_max=16)
        steps = recipe.optimisation.model_copy(update={"max_steps": 10})
        changed = recipe.model_copy(update={"blocks": blocks, "optimisation": steps})
        ends[last] = estimate(changed, flops=1e12)
    at_2 = recipe.model_copy(update={"blocks": BlockGrowth(kind="fixed", b_max=2)})
    assert ends[50].work_last == estimate(at_2, flops=1e12).work_last
    assert ends[5].work_last.total > ends[50].work_last.total


def test_options_out_of_range_raise_an_error():
    for wrong in ({"flops": 0.0}, {"noised_share": 9.0}, {"processes": 0}):
        with pytest.raises(SettingError):
            estimate(Recipe.read("qwen3-0.6b-lora"), **{"flops": 1e12, **wrong})


def test_the_command_prints_a_table_or_json(run):
    code, out, _ = run("estimate", "--recipe", "qwen3-0.6b-lora", "--flops", "1e12")
    assert code == 0
    assert "596,049,920" in out
    code, out, _ = run("estimate", "--recipe", "qwen3-0.6b-lora", "--flops", "1e12", "--json")
    assert json.loads(out)["parameters"] == 596_049_920
    code, out, err = run("estimate", "--recipe", "chat-sft")
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_of_a_run_is_within_30_percent(tmp_path, checkpointing):
    base = write_base(tmp_path / "base", **NANO)
    draw = random.Random(0)
    text = "\n\n".join(" ".join(draw.choices(WORDS, k=300)) for _ in range(60))
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    # More rows with checkpointing: otherwise the memory that the allocator keeps is as large as the estimate.
    optimisation = {"max_steps": 2, "packed_length": 256, "rows": 16 if checkpointing else 8, "warmup": 0, "decay": 0}
    recipe = small_recipe(
        base,
        tmp_path / "text.txt",
        optimisation={**optimisation, "gradient_checkpointing": checkpointing},
        blocks={"kind": "fixed", "b_max": 16},
        precision="fp32",  # bfloat16 is six times slower on a CPU without its instructions
        saving={"save_every": 9, "eval_every": 0},
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "tests.training.measure_memory", str(tmp_path / "recipe.yaml"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    measured = int(done.stdout.split()[-1])
    assert estimate(recipe, flops=1e12).memory.peak == pytest.approx(measured, rel=MEMORY_MARGIN)


def test_a_draft_adapters_step_costs_less_than_a_lora_step_of_the_same_rows():
    settings = ["blocks={kind: fixed, b_max: 16}", "objective={}", "optimisation.gradient_checkpointing=false"]
    lora, draft = (
        estimate(Recipe.read("qwen3-0.6b-lora", [*settings, f"lora.mode={mode}"]), flops=1e12)
        for mode in ("all", "draft_only")
    )
    # [noised ; clean] forward and backward, against the noised half alone with a forward of the clean one.
    assert draft.work_last.layers / lora.work_last.layers == pytest.approx(0.75, abs=0.02)
    assert draft.memory.activations < 0.7 * lora.memory.activations
    assert draft.memory.peak < lora.memory.peak
