"""Draft adapters as files: loaded with the base that they belong to, which is checked and never changed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nbdiff_engine as nb
from nbdiff_engine.model.draft_spec import DraftSpec, fingerprint_of
from tests.draft_adapters import write_draft_adapter
from tests.engine.model.refusals import refusal

BASE = "nano-ar"
PROMPT = "What is the capital of Peru?"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    network = nb.load(BASE, fused=False).network
    folder = tmp_path_factory.mktemp("adapter") / "mine"
    return write_draft_adapter(folder, network, BASE, targets=["o_proj", "up_proj"])


@pytest.fixture
def adapter(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "adapter")


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_base(folder: Path, **changes) -> None:
    file = folder / "draft_adapter.json"
    edit(file, base={**json.loads(file.read_text())["base"], **changes})


def test_a_folder_loads_by_itself_and_with_its_base(adapter):
    plain = nb.load(BASE)
    for model in (nb.load(adapter), nb.load(BASE, adapter=adapter), nb.load(adapter, base=BASE)):
        assert model.name == str(adapter)
        assert model.parameters == plain.parameters
        assert fingerprint_of(model.network) == fingerprint_of(plain.network)
        spec = model.spec
        assert (spec.mask_token_id, spec.block_size) == (plain.vocab_size, 6)
        assert (spec.first_token, spec.context, spec.block_grid) == ("ar", "token_causal", "prompt_end")
        assert model.never_predicted == ()
        answers = [nb.generate(each, PROMPT, strategy="ar", max_new_tokens=24).token_ids for each in (plain, model)]
        assert answers[0] == answers[1]


def test_what_the_base_never_predicts_stays_so(tmp_path):
    """nano was trained the paper's way and has a MASK of its own."""
    base = nb.load("nano", fused=False)
    write_draft_adapter(tmp_path / "adapter", base.network, "nano")
    model = nb.load(tmp_path / "adapter")
    assert model.spec.mask_token_id == base.vocab_size
    assert model.never_predicted == (base.spec.mask_token_id,)
    assert "is MASK" in refused_setting(model, logit_bias={base.spec.mask_token_id: 1.0})


def refused_setting(model, **settings) -> str:
    with pytest.raises(nb.SettingError) as error:
        nb.generate(model, PROMPT, **settings)
    return str(error.value)


def test_the_fingerprint_is_that_of_values_and_not_of_a_format():
    networks = [nb.load(BASE, dtype=dtype, fused=False).network for dtype in ("bfloat16", "float32")]
    first, second = map(fingerprint_of, networks)
    assert first == second
    with torch.no_grad():
        networks[1].model.layers[0].mlp.up_proj.weight[0, 0] += 0.5
    assert fingerprint_of(networks[1]) != first


def test_another_base_is_refused_by_name(adapter):
    said = refusal("nano", adapter=adapter)
    assert "belongs to nano-ar, a " in said
    assert "and not to nano: it has other weights" in said or "and not to nano: it is a " in said
    edit_base(adapter, fingerprint="0" * 64)
    assert "it has other weights" in refusal(adapter)
    edit_base(adapter, model_type="gemma")
    assert "belongs to nano-ar, a gemma" in refusal(adapter)
    edit_base(adapter, name="someone/their-base")
    assert "'someone/their-base'" in refusal(adapter)


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_quantised_base_is_checked_by_its_config(adapter, quantization):
    pytest.importorskip("bitsandbytes")
    plain = nb.load(BASE, quantization=quantization)
    edit_base(adapter, fingerprint="0" * 64)
    model = nb.load(adapter, quantization=quantization)
    assert model.draft.changes
    how = {"max_new_tokens": 12, "block_size": 4}
    first, second = (nb.generate(each, PROMPT, strategy="ar", **how).token_ids for each in (plain, model))
    assert first == second
    block = [5, *[model.spec.mask_token_id] * 3]
    session = model.open(1, 32)
    session.prefill([[3, 4, 5]])
    drafted = session.denoise([block])[0]
    for change in model.draft.changes.values():
        change.b_OR.zero_()
    assert not torch.allclose(session.denoise([block])[0, 1:], drafted[1:], atol=0.01)
    edit_base(adapter, model_type="gemma")
    assert "belongs to nano-ar, a gemma" in refusal(adapter, quantization=quantization)


def test_a_damaged_adapter_is_refused(adapter):
    edit(adapter / "draft_adapter.json", noise_high=5)
    assert "noise_high" in refusal(adapter)
    edit(adapter / "draft_adapter.json", noise_high=None)
    weights = adapter / "noise.safetensors"
    save_file({"mask_embedding": load_file(weights)["mask_embedding"][:3]}, weights)
    assert "has the shape [3]" in refusal(adapter)
    weights.unlink()
    assert "noise.safetensors cannot be read" in refusal(adapter)
    save_file({}, weights)
    assert "mask_embedding" in refusal(adapter)


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"lora_bias": True}, {"modules_to_save": ["norm"]}, {"targets": ["o_proj", "embed_tokens"]}],
    ids=str,
)
def test_an_adapter_that_changes_more_than_noise_rows_is_refused(tmp_path, options):
    network = nb.load(BASE, fused=False).network
    folder = write_draft_adapter(tmp_path / "adapter", network, BASE, **{"targets": ["o_proj"], **options})
    assert "cannot be limited to noise rows" in refusal(folder)


def test_arguments_that_do_not_fit_are_refused(adapter, tmp_path):
    assert "loaded for decoding only" in refusal(adapter, nb.SettingError, for_training=True)
    assert "Both an adapter and a base" in refusal(BASE, nb.SettingError, adapter=adapter, base=BASE)
    assert "has no adapter_config.json" in refusal(BASE, nb.SettingError, adapter="nano")


def test_a_plain_lora_given_as_adapter_is_merged(adapter):
    (adapter / "draft_adapter.json").unlink()
    model = nb.load(BASE, adapter=adapter)
    assert model.draft is None
    assert fingerprint_of(model.network) != fingerprint_of(nb.load(BASE).network)


def test_the_spec_is_written_as_it_is_read(adapter, tmp_path):
    spec = DraftSpec.read(adapter, "mine")
    spec.write(tmp_path)
    assert DraftSpec.read(tmp_path, "mine") == spec
