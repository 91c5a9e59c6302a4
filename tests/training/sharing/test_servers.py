"""Which servers load a draft adapter, and the command that says it."""

import json

import pytest

from nbdiff_engine.model.draft_spec import BaseIdentity, DraftSpec
from tests.training.bases import write_base
from tests.training.runs import small_data, small_recipe
from training.errors import RunError
from training.run.launch import start
from training.sharing.servers import servers_for, shown


def adapter(folder, **fields):
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    identity = BaseIdentity(name="Qwen/Qwen3-8B", model_type="qwen3", parameters=8, fingerprint="0" * 64)
    DraftSpec(base=identity, **fields).write(folder)
    return folder


def test_uniform_causal_noise_is_served_with_the_range_and_the_block_of_the_adapter(tmp_path):
    folder = adapter(
        tmp_path / "my adapter", noise="uniform", noise_high=151643, noise_attention="causal", block_size=16
    )
    _, sglang, vllm = servers_for(folder)
    assert sglang.line == (
        "python -m sglang.launch_server --model-path Qwen/Qwen3-8B --speculative-algorithm UNO "
        f"--uno-lora-path '{folder}'"
    )
    settings = json.loads(vllm.line.split("--speculative-config ")[1].strip("'"))
    assert settings == {
        "method": "uno",
        "uno_lora_path": str(folder),
        "uno_mask_token_id": 151643,
        "num_speculative_tokens": 16,
    }


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "its noise is MASK, whose embedding they cannot load and its noise rows attend to later ones"),
        ({"noise_attention": "causal"}, "its noise is MASK, whose embedding they cannot load; train"),
        (
            {"noise": "uniform", "noise_high": 9},
            "its noise rows attend to later ones; train with the recipe uno-export",
        ),
    ],
)
def test_other_adapters_are_for_this_engine_only_with_the_reason(tmp_path, fields, reason):
    own, *others = servers_for(adapter(tmp_path / "adapter", **fields))
    assert "--adapter" in own.line
    assert [each.line for each in others] == [None, None]
    assert all(reason in each.about for each in others)
    assert f"vLLM: no, {reason}" in shown([own, *others])


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"neither a model.s nor an adapter.s folder"):
        servers_for(tmp_path)


@pytest.mark.parametrize(
    ("block_diffusion", "strategies", "as_ar"),
    [
        (None, "AR only; it is not adapted to block diffusion", True),
        ({"mask_token_id": 1}, "any strategy", True),
        ({"mask_token_id": 1, "context": "block_causal"}, "block_diffusion only", False),
    ],
)
def test_a_model_is_said_to_decode_by_the_strategies_that_its_spec_allows(tmp_path, block_diffusion, strategies, as_ar):
    folder = write_base(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config |= {} if block_diffusion is None else {"block_diffusion": block_diffusion}
    (folder / "config.json").write_text(json.dumps(config))
    own, *others = servers_for(folder)
    assert own.about == strategies
    assert [each.line is not None for each in others] == [as_ar, as_ar]


@pytest.mark.parametrize(
    ("spec", "strategies"), [(None, "as its base; merged when read"), ({"mask_token_id": 1}, "any strategy; merged")]
)
def test_a_lora_is_said_to_decode_by_the_strategies_of_its_own_spec(tmp_path, spec, strategies):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/base", "r": 8}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    if spec is not None:
        (tmp_path / "block_diffusion.json").write_text(json.dumps(spec))
    assert strategies in servers_for(tmp_path)[0].about


def test_the_command_exports_a_checkpoint_and_checks_it(tmp_path, run):
    base, data = write_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl")
    recipe = small_recipe(
        base,
        data,
        blocks={"kind": "fixed", "b_max": 4},
        lora={"mode": "draft_only", "rank": 2},
        draft={"noise": "uniform", "noise_attention": "causal"},
        optimisation={"max_steps": 2},
        saving={"save_every": 1, "eval_every": 0},
    )
    start(recipe, tmp_path / "run", resume=False)
    code, out, _ = run("export", str(tmp_path / "run"), "--step", "1", "--output", str(tmp_path / "out"))
    assert code == 0
    folder = tmp_path / "out" / "run-step-00000001-adapter"
    assert out.splitlines()[0] == str(folder)
    assert DraftSpec.read(folder, "it").noise_high == 961
    assert "SGLang: yes" in out
    card = (folder / "README.md").read_text()
    assert "# Draft adapter after step 1 of 2" in card
    assert f'nb.load("{base.name}", adapter=".")' in card
    assert "[More Information Needed]" not in card  # PEFT's own card is replaced
    code, out, _ = run("export", str(tmp_path / "run"), "--check")
    assert code == 0
    assert str(tmp_path / "run" / "final") in out
    (tmp_path / "run" / "final").rename(tmp_path / "moved")
    code, _, err = run("export", str(tmp_path / "run"), "--check")
    assert code == 2
    assert "The run run is not finished, so there is nothing to check yet" in err
    code, _, err = run("export", str(tmp_path / "run"))
    assert code == 2
    assert "Give --output, the folder to write to, or --check." in err
    code, _, err = run("export", str(tmp_path / "none"), "--output", str(tmp_path / "out"))
    assert code == 2
    assert "No model" in err
