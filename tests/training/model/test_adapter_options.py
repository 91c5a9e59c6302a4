"""LoRA options that go to peft: rsLoRA, DoRA, first values; and adapter/, which peft loads on the unchanged base."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import nbdiff_engine as nb
from tests.training.bases import ENTRIES, rename_entries, write_base
from tests.training.runs import losses, small_base, small_data, small_recipe
from training.errors import RecipeError
from training.model.adapters import add_adapters, init_names, recorded_name
from training.recipe.recipe import Lora
from training.run.launch import start

IDS = torch.tensor([[5, 6, 8, 9, 10, 1, 1]])  # 1: MASK
OPTIONS = [
    {},
    {"use_dora": True},
    {"init": "pissa_niter_4", "use_rslora": True},
    {"init": "olora"},
    *(
        pytest.param(each, marks=pytest.mark.slow)
        for each in ({"use_rslora": True}, {"init": "gaussian"}, {"init": "orthogonal"}, {"init": "pissa"})
    ),
]


def logits(network) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_final_and_the_adapter_on_the_unchanged_base_are_the_same_model(options, tmp_path):
    base = small_base(tmp_path / "base")
    recipe = small_recipe(base, small_data(tmp_path / "data.jsonl", rows=20), lora={"rank": 4, **options})
    final = start(recipe, tmp_path / "run", resume=False)
    adapter = tmp_path / "run" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert (config["use_rslora"], config["use_dora"]) == (recipe.lora.use_rslora, recipe.lora.use_dora)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = logits(plain)
    loaded = logits(PeftModel.from_pretrained(plain, adapter))
    torch.testing.assert_close(loaded, logits(AutoModelForCausalLM.from_pretrained(final)), rtol=1e-4, atol=1e-4)
    assert (loaded - before).abs().max() > 1e-3
    names = load_file(adapter / "adapter_model.safetensors")
    assert any("magnitude" in name for name in names) == recipe.lora.use_dora


def test_a_base_folder_is_recorded_by_a_path_that_holds_in_any_directory(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert recorded_name("./base") == recorded_name("base") == str(tmp_path.resolve() / "base")
    assert [recorded_name(each) for each in ("nano", "smollm2", "owner/name")] == ["nano", "smollm2", "owner/name"]


@pytest.mark.slow
def test_a_resumed_pissa_run_has_the_same_losses(tmp_path):
    base, data = small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl", rows=20)
    recipe = small_recipe(base, data, lora={"rank": 4, "init": "pissa"})

    def stop(done):
        if done.step == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        start(recipe, tmp_path / "resumed", resume=False, on_step=stop)
    start(recipe, tmp_path / "resumed", resume=True)
    start(recipe, tmp_path / "whole", resume=False)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")


@pytest.mark.parametrize("tied", [True, False])
def test_the_adapter_has_the_row_of_a_new_mask(tied, tmp_path):
    base = write_base(tmp_path / "base", tie_word_embeddings=tied)
    rename_entries(base, {"<mask>": "qq"})  # MASK is a new row
    recipe = small_recipe(base, small_data(tmp_path / "data.jsonl", rows=20), lora={"rank": 4})
    final = start(recipe, tmp_path / "run", resume=False)
    adapter = tmp_path / "run" / "adapter"
    assert f"base.resize_token_embeddings({ENTRIES + 1}, mean_resizing=False)" in (adapter / "README.md").read_text()
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain.resize_token_embeddings(ENTRIES + 1, mean_resizing=False)
    loaded = PeftModel.from_pretrained(plain, adapter).merge_and_unload()
    own = AutoModelForCausalLM.from_pretrained(final)
    rows = [each.get_input_embeddings().weight[ENTRIES] for each in (loaded, own)]
    torch.testing.assert_close(*rows)
    # The engine adds the row itself, and reads the spec beside it: the same block-diffusion model as final/.
    merged, whole = nb.load(adapter), nb.load(final)
    assert merged.spec == whole.spec
    assert merged.spec.mask_token_id == ENTRIES
    assert merged.never_predicted == whole.never_predicted
    assert merged.network.state_dict().keys() == whole.network.state_dict().keys()
    for name, weight in whole.network.state_dict().items():
        torch.testing.assert_close(merged.network.state_dict()[name], weight)
    answers = [nb.generate(each, "the old cat", max_new_tokens=16).token_ids for each in (merged, whole)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"init": "best"}, r"lora.init is 'best'; choose one of default, gaussian, olora, orthogonal, pissa"),
        ({"init": "pissa_niter_many"}, r"lora.init is 'pissa_niter_many'; choose one of"),
        ({"init": "eva"}, r"lora.init is 'eva'; choose one of"),  # needs data
        ({"init": "pissa", "use_dora": True}, r"lora.init is pissa, .* turn use_dora off"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options, sentence, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(small_base(tmp_path / "base"))
    with pytest.raises(RecipeError, match=sentence):
        add_adapters(network, Lora(rank=4, **options), 1, 0)


def test_first_values_from_the_weights_need_an_unquantised_base(tmp_path):
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
    base = write_base(tmp_path / "base", tie_word_embeddings=False, head_dim=16, **wide)
    data = small_data(tmp_path / "data.jsonl", rows=20)
    recipe = small_recipe(base, data, lora={"rank": 4, "init": "pissa"}, quantization="4bit")
    with pytest.raises(RecipeError, match="needs the weights of an unquantised base"):
        start(recipe, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_the_names_of_first_values_are_those_of_peft():
    assert init_names() == ("default", "gaussian", "olora", "orthogonal", "pissa")
