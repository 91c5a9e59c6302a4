"""Published checkpoints load as stock classes. The tests save tiny random networks in the published formats."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import nbdiff_engine as nb
from nbdiff_engine.model.families import FAMILIES
from tests import tiny
from tests.tiny import prompt_ids

SHAPE = {**tiny.SHAPE, "vocab_size": 96, "tie_word_embeddings": False, "eos_token_id": 95}


@pytest.fixture(params=FAMILIES)
def published(request, tmp_path):
    """A checkpoint folder in the family's published format, and the network with the same weights."""
    model_type = request.param
    family = FAMILIES[model_type]
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family.stock_type, **SHAPE, **family.config), dtype=torch.float32
    )
    network.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config |= {
        "model_type": model_type,
        "architectures": ["TheirForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_theirs.TheirForCausalLM"},
        "mask_token_id": 94,
    }
    path.write_text(json.dumps(config))
    (tmp_path / "modeling_theirs.py").write_text("raise SystemExit('remote code ran')")
    if family.key_mapping:
        weights = load_file(tmp_path / "model.safetensors")
        theirs = {
            name.replace("model.", "encoder.", 1).replace("lm_head.", "diffusion_head."): tensor
            for name, tensor in weights.items()
        }
        save_file(theirs, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path, network


def test_a_published_checkpoint_loads_as_its_stock_class_with_all_tensors(published):
    folder, network = published
    model = nb.load(folder)
    assert type(model.network) is type(network)
    ids = torch.tensor([prompt_ids(12)])
    with torch.inference_mode():
        assert torch.equal(model.network(input_ids=ids).logits, network.eval()(input_ids=ids).logits)


def test_the_spec_is_the_familys_with_the_mask_id_of_the_config(published):
    folder, _ = published
    family = FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]]
    assert nb.load(folder).spec == family.spec.model_copy(update={"mask_token_id": 94})


def test_a_published_checkpoint_decodes(published):
    folder, _ = published
    model = nb.load(folder)
    output = nb.generate(model, prompt_ids(11), max_new_tokens=40)
    assert output.token_ids
    assert 94 not in output.token_ids


def test_the_mask_id_of_the_table_must_lie_in_the_vocabulary(published):
    folder, _ = published
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["mask_token_id"]
    path.write_text(json.dumps(config))
    # a2d-qwen3 takes the MASK id from the tokenizer, and this folder has none.
    expected = "'mask_token_id' is missing" if config["model_type"] == "a2d-qwen3" else "outside its vocabulary of 96"
    with pytest.raises(nb.CheckpointError, match=expected):
        nb.load(folder)


def test_the_tokenizer_gives_the_mask_id_and_the_bos_if_the_family_needs_them(published):
    folder, _ = published
    config = json.loads((folder / "config.json").read_text())
    family = FAMILIES[config["model_type"]]
    config.pop("mask_token_id" if family.mask_of_tokenizer else "nothing", None)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(WordLevel({"<bos>": 2, "<mask>": 7, "a": 8, "b": 9}, unk_token="a"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", mask_token="<mask>")
    fast.chat_template = "{% for turn in messages %}b {{ turn.content }}{% endfor %}"
    fast.save_pretrained(folder)
    model = nb.load(folder)
    assert model.spec.mask_token_id == (7 if family.mask_of_tokenizer else 94)
    assert nb.prepare(model, "a").prompts == [[2, 9, 8] if family.bos_before_template else [9, 8]]


def test_the_block_size_of_the_config_wins_and_limits_the_sub_block(published):
    folder, _ = published
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "block_size": 2}))
    spec = nb.load(folder).spec
    assert spec.block_size == 2
    assert spec.sub_block_size in (None, 2)
