"""A LoRA adapter as a model: merged into its base, or refused with the reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import nbdiff_engine as nb
import nbdiff_engine.model.checkpoint_folders as checkpoint_folders
from nbdiff_engine.model.lora_folders import beside_adapter
from nbdiff_engine.model.outline import outline
from nbdiff_engine.model.vocabulary_rows import add_rows
from tests.conftest import GOLDEN
from tests.engine.model.refusals import refusal

BASE = GOLDEN / "tiny-block-diffusion"
PROMPT = "What is the capital of Peru?"


def write_adapter(folder: Path, base: Path, **options) -> dict[str, torch.Tensor]:
    """An adapter with random weights beside nothing else; returns the base's weights with it merged in float32."""
    network = nb.load(base, dtype="float32", fused=False, for_training=True).network
    torch.manual_seed(0)
    targets = ["q_proj", "o_proj", "up_proj"]
    adapted = get_peft_model(network, LoraConfig(r=4, lora_alpha=16, target_modules=targets, **options))
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return adapted.merge_and_unload().state_dict()


@pytest.fixture
def adapter(tmp_path) -> Path:
    write_adapter(tmp_path / "adapter", BASE)
    return tmp_path / "adapter"


def edit_config(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "options",
    [{}, {"use_dora": True}, {"trainable_token_indices": {"embed_tokens": [1, 5]}}, {"modules_to_save": ["norm"]}],
    ids=str,
)
def test_an_adapter_is_merged_into_its_base(tmp_path, options):
    expected = write_adapter(tmp_path / "adapter", BASE, **options)
    model = nb.load(tmp_path / "adapter", fused=False)
    plain = nb.load(BASE, fused=False).network.state_dict()
    found = model.network.state_dict()
    assert found.keys() == plain.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight)
    assert not torch.equal(
        found["model.layers.0.self_attn.q_proj.weight"], plain["model.layers.0.self_attn.q_proj.weight"]
    )
    assert model.name == str(tmp_path / "adapter")
    assert model.spec == nb.load(BASE).spec
    assert model.tokenizer.get_vocab() == nb.load(BASE).tokenizer.get_vocab()
    assert nb.generate(model, PROMPT, max_new_tokens=4).token_ids


def test_a_load_gives_no_warning_of_peft(adapter, recwarn):
    nb.load(adapter)
    assert [str(each.message) for each in recwarn if each.category is FutureWarning] == []


def test_the_sum_is_rounded_once(tmp_path):
    expected = write_adapter(tmp_path / "adapter", BASE)
    found = nb.load(tmp_path / "adapter", dtype="bfloat16", fused=False).network.state_dict()
    name = "model.layers.1.mlp.up_proj.weight"
    plain = load_file(BASE / "model.safetensors")[name]
    delta = expected[name] - plain
    torch.testing.assert_close(found[name], (plain.bfloat16().float() + delta).bfloat16(), rtol=0.01, atol=1e-4)


def test_another_place_of_the_base(adapter):
    edit_config(adapter, base_model_name_or_path="someone/their-base")
    said = refusal(adapter)
    assert "is an adapter, and its base cannot be loaded" in said
    assert "'someone/their-base'" in said
    assert nb.load(adapter, base=BASE).parameters > 0
    edit_config(adapter, base_model_name_or_path=None)
    assert "names no base" in refusal(adapter)
    assert "is no adapter" in refusal(BASE, nb.SettingError, base=BASE)
    assert "is an adapter too" in refusal(adapter, base=_of(adapter))


def _of(adapter: Path) -> Path:
    """A second adapter, whose base is BASE."""
    other = shutil.copytree(adapter, adapter.with_name("other"))
    edit_config(other, base_model_name_or_path=str(BASE))
    return other


@pytest.mark.parametrize("named", ["../base", "base", "./inner/base"])
def test_a_relative_base_is_looked_for_beside_the_adapter_and_then_in_the_working_directory(
    adapter, tmp_path, monkeypatch, named
):
    edit_config(adapter, base_model_name_or_path=named)
    said = refusal(adapter)
    assert f"looked for in {adapter} and in the working directory" in said
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    beside, here = (adapter / named).resolve(), (tmp_path / "work" / named).resolve()
    shutil.copytree(BASE, here)
    assert nb.describe(adapter).folder == here
    if beside != here:
        shutil.copytree(BASE, beside)
    assert nb.describe(adapter).folder == beside
    assert outline(adapter).base == str(beside)
    assert nb.load(adapter).parameters > 0


def test_a_bundled_name_of_a_base_is_no_path(adapter):
    (adapter / "nano").mkdir()
    assert beside_adapter(adapter, "nano") == "nano"
    assert beside_adapter(adapter, "x" * 5000) == "x" * 5000


def test_an_adapter_of_the_hub_does_not_make_a_local_path_be_read(adapter, monkeypatch):
    monkeypatch.setattr(checkpoint_folders, "from_hub", lambda name: adapter)
    assert "is an adapter of the hub that names" in refusal("someone/their-lora")
    edit_config(adapter, base_model_name_or_path="base")
    shutil.copytree(BASE, adapter / "base")
    assert "is an adapter of the hub that names" in refusal("someone/their-lora")
    assert nb.load("someone/their-lora", base=BASE).parameters > 0


def test_an_adapter_of_another_base_is_refused(adapter):
    other = adapter.with_name("another-base")
    nb.load("nano", fused=False).network.save_pretrained(other)
    said = refusal(adapter, base=other)
    assert "does not fit its base" in said
    assert str(BASE)[:20] in said
    assert "size mismatch" in said


def with_new_row(folder: Path) -> dict[str, torch.Tensor]:
    """An adapter that trains a row which its base does not have; returns the merged weights."""
    base = folder.with_name("grown")
    model = nb.load(BASE, fused=False, for_training=True)
    rows = model.vocab_size
    add_rows(model.network, rows + 1)
    model.network.save_pretrained(base)
    model.tokenizer.save_pretrained(base)
    expected = write_adapter(folder, base, trainable_token_indices={"embed_tokens": [rows]})
    edit_config(folder, base_model_name_or_path=str(BASE))
    return expected


def test_a_row_that_only_the_adapter_has_is_added_to_the_base(tmp_path):
    expected = with_new_row(tmp_path / "adapter")
    description = nb.describe(tmp_path / "adapter")
    for _ in range(2):  # the description is not changed by a load
        found = nb.load(description, fused=False).network
        assert found.config.vocab_size == len(found.get_input_embeddings().weight)
        for name, weight in expected.items():
            torch.testing.assert_close(found.state_dict()[name], weight)


def test_an_adapter_of_a_much_larger_vocabulary_is_refused_before_the_base_grows(tmp_path):
    with_new_row(tmp_path / "adapter")
    edit_config(tmp_path / "adapter", trainable_token_indices={"embed_tokens": [10**9]})
    assert "it trains token 1000000000, and the base has" in refusal(tmp_path / "adapter")


def test_the_spec_beside_an_adapter_is_that_of_the_merged_model(adapter):
    (adapter / "block_diffusion.json").write_text('{"mask_token_id": 7, "block_size": 4}')
    model = nb.load(adapter)
    assert (model.spec.mask_token_id, model.spec.block_size, model.never_predicted) == (7, 4, (7,))
    (adapter / "block_diffusion.json").write_text(f'{{"mask_token_id": {model.vocab_size}}}')
    assert "lies outside its vocabulary" in refusal(adapter)
    (adapter / "block_diffusion.json").write_text('{"mask": 7}')
    assert "is not valid" in refusal(adapter)


def test_an_adapter_that_is_damaged_is_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({key: value for key, value in weights.items() if key != name}, path)
    assert "does not fit its base" in refusal(adapter)
    save_file({**weights, "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.zeros(4, 4)}, path)
    assert "unexpected" in refusal(adapter)
    path.write_bytes(b"no safetensors")
    assert "does not fit its base" in refusal(adapter)
    path.unlink()
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert "without adapter_model.safetensors" in refusal(adapter)


def test_other_kinds_of_adapters_and_quantised_bases_are_refused(adapter):
    assert "load it without quantization" in refusal(adapter, nb.SettingError, quantization="4bit")
    edit_config(adapter, peft_type="PREFIX_TUNING")
    assert "this engine reads LoRA adapters" in refusal(adapter)


def test_an_adapter_beside_full_weights_is_not_applied_and_that_is_said(adapter, caplog):
    both = shutil.copytree(BASE, adapter.with_name("both"))
    for path in adapter.iterdir():
        shutil.copy(path, both)
    model = nb.load(both, fused=False)
    assert "is not applied: the folder holds full weights" in caplog.text
    for name, weight in nb.load(BASE, fused=False).network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], weight)
    merged = nb.load(both, base=BASE, fused=False).network.state_dict()
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(merged[name], nb.load(adapter, fused=False).network.state_dict()[name])


def test_an_adapter_brings_its_own_tokenizer(adapter):
    tokenizer = nb.load(BASE).tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(adapter)
    assert nb.describe(adapter).tokenizer.chat_template == tokenizer.chat_template
