"""DiffusionSpec: config.json is read completely or refused."""

import pytest
from pydantic import ValidationError

from nbdiff_engine import CheckpointError, DiffusionSpec


def test_the_golden_checkpoint_has_this_spec(golden_model):
    assert golden_model.spec == DiffusionSpec(
        mask_token_id=1,
        block_size=32,
        sub_block_size=None,
        context="token_causal",
        token_shift=True,
        first_token="ar",
        block_grid="prompt_end",
        unmasking="confidence",
        threshold=0.9,
    )


def test_a_spec_is_unchanged_after_config_json():
    spec = DiffusionSpec(mask_token_id=7, block_size=4, context="block_causal", sub_block_size=2)
    assert DiffusionSpec.from_config({"block_diffusion": spec.model_dump(mode="json")}, "x") == spec


def test_a_config_without_an_entry_has_no_spec():
    assert DiffusionSpec.from_config({"vocab_size": 8}, "x") is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "'mask_token_id' is missing"),
        ({"mask_token_id": 1, "colour": "red"}, "'colour' is not known here"),
        ({"mask_token_id": 1, "block_size": 0}, "block_size is 0"),
        ({"mask_token_id": 1, "threshold": 1.5}, "threshold is 1.5"),
        ({"mask_token_id": 1, "context": "full"}, "context is 'full'"),
        ({"mask_token_id": 1, "unmasking": "nosuch"}, "unmasking is 'nosuch'; choose one of confidence, factor"),
        ({"mask_token_id": 1, "token_shift": False}, "cannot be decoded"),
        ({"mask_token_id": 1, "first_token": "masked"}, "cannot be decoded"),
        ({"mask_token_id": 1, "block_size": 4, "sub_block_size": 8}, "larger than the block size"),
        ({"mask_token_id": 64}, "outside its vocabulary of 64"),
        ("yes", "is not valid"),
    ],
)
def test_an_invalid_or_unsupported_spec_is_refused(fields, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        DiffusionSpec.from_config({"vocab_size": 64, "block_diffusion": fields}, "the checkpoint")


def test_a_spec_is_immutable():
    with pytest.raises(ValidationError):
        DiffusionSpec(mask_token_id=1).block_size = 4


@pytest.mark.parametrize("eos", [7, [2, 7]])
def test_a_mask_that_is_an_eos_is_refused(eos):
    with pytest.raises(CheckpointError, match="The mask token id 7 of here is an EOS too; give MASK"):
        DiffusionSpec.from_config({"block_diffusion": {"mask_token_id": 7}, "eos_token_id": eos}, "here")
    assert DiffusionSpec.from_config({"block_diffusion": {"mask_token_id": 7}, "eos_token_id": None}, "here")


@pytest.mark.parametrize("mask", [True, "7", 7.0])
def test_a_mask_id_is_an_integer(mask):
    with pytest.raises(CheckpointError, match="The 'block_diffusion' entry of here is not valid: mask_token_id is"):
        DiffusionSpec.from_config({"block_diffusion": {"mask_token_id": mask}}, "here")
