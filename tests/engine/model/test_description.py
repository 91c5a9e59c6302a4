"""`describe` reads only the small files of a checkpoint and agrees with the loaded model."""

import json
import shutil

import pytest

import nbdiff_engine as nb
from nbdiff_engine.model.description import describe_named
from nbdiff_engine.model.families import FAMILIES
from tests.conftest import GOLDEN


@pytest.fixture
def folder(tmp_path):
    """A copy of the trained checkpoint."""
    return shutil.copytree(GOLDEN / "tiny-block-diffusion", tmp_path / "copy")


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_bundled_models_are_described_without_loading_them():
    found = {each.name: each for each in describe_named()}
    for name in nb.bundled_models():
        described = found[name]
        model = nb.load(described.name)
        assert described.parameters == model.parameters
        assert described.block_size == (model.spec and model.spec.block_size)


@pytest.mark.parametrize(
    "changes", [{}, {"sliding_window": 40}, {"eos_token_id": [0, 3]}, {"block_diffusion": None}], ids=str
)
@pytest.mark.parametrize("generation", [None, {"eos_token_id": [2, 0]}, {"temperature": 0.6}], ids=str)
def test_a_description_agrees_with_the_loaded_model(folder, changes, generation):
    edit(folder, **changes)
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    described, model = nb.describe(folder), nb.load(folder)
    assert (described.label, described.folder) == (model.name, folder)
    assert described.spec == model.spec
    assert described.context_length == model.context_length
    assert described.eos_token_ids == model.eos_token_ids
    assert described.bos_before_template == model.bos_before_template
    assert described.parameters == model.parameters
    assert described.saved_dtype == str(model.dtype).removeprefix("torch.")
    assert described.config.model_type == model.network.config.model_type
    assert described.tokenizer.get_vocab() == model.tokenizer.get_vocab()


def test_describe_reads_no_weights(folder):
    whole = nb.describe(folder)
    (folder / "model.safetensors").unlink()
    assert nb.describe(folder).eos_token_ids == whole.eos_token_ids
    with pytest.raises(nb.CheckpointError, match=r"no weights \(\*\.safetensors\)"):
        nb.load(nb.describe(folder))


def test_a_description_can_be_loaded_more_than_once(folder):
    described = nb.describe(folder)
    before = described.config.to_dict()
    models = [nb.load(described, dtype=dtype) for dtype in ("bfloat16", "float32")]
    assert described.config.to_dict() == before
    assert [str(model.dtype) for model in models] == ["torch.bfloat16", "torch.float32"]
    assert models[0].tokenizer is described.tokenizer


def test_a_published_family_is_described_as_its_stock_class(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["block_diffusion"]
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "PanguEmbedded", "mask_token_id": 1}))
    described = nb.describe(folder)
    assert described.family is FAMILIES["PanguEmbedded"]
    assert (described.model_type, described.config.model_type) == ("PanguEmbedded", "llama")
    assert described.bos_before_template
    assert (described.spec.mask_token_id, described.spec.block_size) == (1, 32)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "llada2_moe"}, "LLaDA2 is a mixture of experts"),
        ({"model_type": "somethingnew"}, "which is no stock transformers class"),
        ({"dtype": "banana"}, "banana"),
        ({"block_diffusion": {"mask_token_id": 10**6}}, "lies outside its vocabulary"),
    ],
    ids=str,
)
def test_describe_and_load_refuse_a_bad_checkpoint_with_the_same_sentence(folder, changes, sentence):
    edit(folder, **changes)
    sentences = []
    for function in (nb.describe, nb.load):
        with pytest.raises(nb.CheckpointError, match=sentence) as refused:
            function(folder)
        sentences.append(str(refused.value))
    assert sentences[0] == sentences[1]


def test_a_missing_context_length_is_an_error_when_it_is_read(folder):
    edit(folder, max_position_embeddings=1)
    with pytest.raises(nb.CheckpointError, match="does not say how long its context is"):
        _ = nb.describe(folder).context_length
