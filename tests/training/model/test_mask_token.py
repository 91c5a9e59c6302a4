"""A MASK that the recipe names, and a vocabulary that is padded when MASK needs a new row."""

import pytest
import torch

import nbdiff_engine as nb
from tests.conftest import GOLDEN
from tests.training.bases import ENTRIES, rename_entries, write_base
from tests.training.runs import losses, small_base, small_data, small_recipe
from training.errors import RecipeError
from training.model.base import load_base, with_spec
from training.run.launch import start


def adapted(folder, name=None, multiple=None):
    return with_spec(load_base(str(folder), torch.float32, device="cpu"), 8, "token_causal", True, name, multiple)


def test_an_entry_of_the_tokenizer_can_be_named(tmp_path):
    folder = write_base(tmp_path / "base")
    rename_entries(folder, {"<user>": "<|fim_pad|>"})  # MASK would be chosen otherwise
    model = adapted(folder, "<|fim_pad|>")
    assert (model.spec.mask_token_id, model.tokenizer.mask_token) == (2, "<|fim_pad|>")
    weight = model.network.get_input_embeddings().weight.detach()
    torch.testing.assert_close(weight[2], weight[torch.arange(ENTRIES) != 2].mean(dim=0))


def test_a_new_name_is_added_and_the_checkpoint_keeps_it(tmp_path):
    folder = write_base(tmp_path / "base")
    model = adapted(folder, "<|gap|>")
    assert model.spec.mask_token_id == ENTRIES
    model.save(tmp_path / "saved")
    back = nb.load(tmp_path / "saved")
    assert (back.spec.mask_token_id, back.tokenizer.mask_token) == (ENTRIES, "<|gap|>")


def test_the_own_mask_of_the_checkpoint_can_be_named_and_stays_unchanged(tmp_path):
    folder = write_base(tmp_path / "base")
    plain, named = (adapted(folder, name) for name in (None, "<mask>"))
    assert plain.spec == named.spec
    rows = [each.network.get_input_embeddings().weight for each in (plain, named)]
    assert torch.equal(*rows)


def test_a_token_with_another_use_and_another_mask_of_a_block_model_are_refused(tmp_path):
    folder = write_base(tmp_path / "base")
    with pytest.raises(RecipeError, match=r"objective.mask_token is '<eos>', which .* uses otherwise"):
        adapted(folder, "<eos>")
    with pytest.raises(RecipeError, match=r"is a block-diffusion model whose MASK is '<mask>'"):
        adapted(GOLDEN / "tiny-block-diffusion", "<|gap|>")


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_row_pads_the_vocabulary_to_the_multiple(tmp_path, tied):
    folder = write_base(tmp_path / "base", tie_word_embeddings=tied)
    rename_entries(folder, {"<mask>": "qq"})
    model = adapted(folder, multiple=64)
    assert model.spec.mask_token_id == ENTRIES
    assert model.network.config.vocab_size == 1024  # of 961 entries and MASK
    assert model.network.get_output_embeddings().weight.shape[0] == 1024
    assert adapted(write_base(tmp_path / "other"), multiple=64).network.config.vocab_size == ENTRIES  # no new row


def test_a_run_with_both_settings_trains_resumes_and_decodes(tmp_path):
    recipe = small_recipe(
        small_base(tmp_path / "base"),
        small_data(tmp_path / "data.jsonl"),
        objective={"mask_token": "<|gap|>", "pad_vocabulary_to": 8},
    )
    model = nb.load(start(recipe, tmp_path / "run", resume=False), dtype="float32")
    assert (model.tokenizer.mask_token, model.vocab_size) == ("<|gap|>", 968)
    assert nb.generate(model, "red dog", strategy="block_diffusion", max_new_tokens=8).token_ids
    before = losses(tmp_path / "run")
    start(recipe, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == before
