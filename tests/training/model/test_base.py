"""The base model: which token becomes MASK, and a saved model loads back unchanged."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

import nbdiff_engine as nb
from nbdiff_engine.decoding.prompts import encode
from nbdiff_engine.errors import CheckpointError
from nbdiff_engine.model.spec import CONFIG_KEY
from tests.conftest import GOLDEN
from tests.tiny import FAMILIES
from tests.training.bases import ENTRIES, rename_entries, write_base
from tests.training.runs import small_data, small_recipe
from training.errors import RecipeError
from training.model.base import MASK_TOKEN, load_base, with_spec
from training.run.launch import start

TEXT = "sum of 3 and 4"
RESERVED = ("<|reserved_special_token_0|>", "<unused5>", "[unused9]", "<SPECIAL_12>", "<|placeholder1|>")


def adapted(folder, block_size=8):
    """A base with its spec, built as in a run."""
    return with_spec(load_base(str(folder), torch.float32, device="cpu"), block_size, "token_causal", True)


def embedding(network):
    return network.get_input_embeddings().weight.detach()


# -- the choice of MASK -----------------------------------------------------------------------------------


def test_the_mask_token_of_the_tokenizer_is_used_unchanged(tmp_path):
    base = load_base(str(write_base(tmp_path)), device="cpu")
    before = embedding(base.network).clone()
    model = with_spec(base, 8, "token_causal", True)
    assert model.spec.mask_token_id == model.tokenizer.mask_token_id == 1
    assert torch.equal(embedding(model.network), before)


def test_a_mask_token_beyond_the_embedding_gets_a_row(tmp_path):
    folder = write_base(tmp_path / "base")
    tokenizer = rename_entries(folder, {"<mask>": "qq"})
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.save_pretrained(folder)
    model = adapted(folder)
    assert model.spec.mask_token_id == ENTRIES
    model.save(tmp_path / "saved")
    assert nb.load(tmp_path / "saved").spec.mask_token_id == ENTRIES


def test_a_spare_row_of_the_embedding_becomes_mask_and_starts_at_the_mean(tmp_path):
    """Qwen3, for example, has 151,936 embedding rows for 151,669 entries."""
    folder = write_base(tmp_path / "base", vocab_size=1024)
    rename_entries(folder, {"<mask>": "<unused5>"})  # reserved, but a template may use it; a spare row cannot be used
    base = load_base(str(folder), device="cpu")
    before = embedding(base.network).clone()
    model = with_spec(base, 8, "token_causal", True)
    assert model.spec.mask_token_id == ENTRIES
    assert model.tokenizer.mask_token == MASK_TOKEN
    after = embedding(model.network)
    rest = torch.arange(1024) != ENTRIES
    assert torch.equal(after[rest], before[rest])
    torch.testing.assert_close(after[ENTRIES], before[rest].mean(dim=0))
    model.save(tmp_path / "saved")
    back = nb.load(tmp_path / "saved")
    assert (back.spec.mask_token_id, back.tokenizer.mask_token, back.vocab_size) == (ENTRIES, MASK_TOKEN, 1024)


@pytest.mark.parametrize("name", RESERVED)
def test_without_a_spare_row_a_reserved_entry_becomes_mask(tmp_path, name):
    folder = write_base(tmp_path / "base")
    rename_entries(folder, {"<mask>": name})
    model = adapted(folder)
    assert (model.spec.mask_token_id, model.tokenizer.mask_token) == (1, name)
    model.save(tmp_path / "saved")
    back = nb.load(tmp_path / "saved")
    assert (back.spec.mask_token_id, back.tokenizer.mask_token) == (1, name)
    assert back.tokenizer(f"7{name}7")["input_ids"].count(1) == 1


def test_a_reserved_entry_that_the_chat_template_writes_is_in_use(tmp_path):
    """openPangu's template writes its roles with [unused9] and [unused10]."""
    folder = write_base(tmp_path)
    names = {"<mask>": "[unused9]", "<user>": "[unused11]"}
    rename_entries(folder, names, template="{% for turn in messages %}[unused9]{{ turn['content'] }}{% endfor %}")
    assert adapted(folder).tokenizer.mask_token == "[unused11]"


@pytest.mark.parametrize("name", ["<|user|>", "unused5", "<unused>", "<b1>", "<|im_start|>"])
def test_other_entries_do_not_count_as_reserved(tmp_path, name):
    folder = write_base(tmp_path)
    rename_entries(folder, {"<mask>": name})
    assert adapted(folder).tokenizer.mask_token == MASK_TOKEN


@pytest.mark.parametrize("tied", [True, False])
def test_without_a_spare_row_or_reserved_entry_the_vocabulary_grows_by_one(tmp_path, tied):
    folder = write_base(tmp_path / "base", tie_word_embeddings=tied)
    rename_entries(folder, {"<mask>": "qq"})
    base = load_base(str(folder), device="cpu")
    before = embedding(base.network).clone()
    model = with_spec(base, 8, "token_causal", True)
    network = model.network
    assert network.config.vocab_size == ENTRIES + 1
    assert torch.equal(embedding(network)[:ENTRIES], before)
    torch.testing.assert_close(embedding(network)[ENTRIES], before.mean(dim=0))
    head = network.get_output_embeddings().weight
    assert (head is network.get_input_embeddings().weight) == tied
    torch.testing.assert_close(head[ENTRIES], head[:ENTRIES].mean(dim=0))
    model.save(tmp_path / "saved")
    back = nb.load(tmp_path / "saved")
    assert (back.spec.mask_token_id, back.tokenizer.mask_token) == (ENTRIES, MASK_TOKEN)
    assert back.vocab_size == back.network.config.vocab_size == ENTRIES + 1
    ids = torch.tensor([[5, 6, ENTRIES]])
    assert torch.equal(back.network(input_ids=ids).logits, network(input_ids=ids).logits)


def test_two_loads_of_a_base_are_the_same_network(tmp_path):
    """A LoRA run that resumes loads its base again."""
    folder = write_base(tmp_path, tie_word_embeddings=False)
    rename_entries(folder, {"<mask>": "qq"})
    one, other = (adapted(folder).network.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


# -- the spec ---------------------------------------------------------------------------------------------


def test_a_checkpoint_with_a_spec_keeps_its_mask_and_policy(tmp_path):
    folder = write_base(tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[CONFIG_KEY] = {"mask_token_id": 7, "block_size": 4, "sub_block_size": 2, "threshold": 0.8}
    path.write_text(json.dumps(config))
    spec = adapted(folder, block_size=16).spec
    assert (spec.mask_token_id, spec.threshold, spec.block_size, spec.sub_block_size) == (7, 0.8, 16, None)


def test_a_checkpoint_with_blocks_at_absolute_positions_is_refused(tmp_path):
    folder = write_base(tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[CONFIG_KEY] = {"mask_token_id": 7, "context": "block_causal", "block_grid": "absolute"}
    path.write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="absolute positions"):
        adapted(folder)


def test_a_base_without_a_tokenizer_or_with_a_damaged_config_raises_one_sentence(tmp_path):
    folder = write_base(tmp_path)
    for path in [*folder.glob("*token*"), folder / "chat_template.jinja"]:
        path.unlink()
    with pytest.raises(RecipeError, match="no tokenizer"):
        load_base(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load_base(str(folder))


def test_the_eos_of_the_tokenizer_is_the_first_one(tmp_path):
    folder = write_base(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 0, 2]}))
    assert load_base(str(folder)).eos_token_ids == (0, 2, 3)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<bot>"}))
    assert load_base(str(folder)).eos_token_ids == (3, 0, 2)


@pytest.mark.parametrize(
    ("saved", "trained"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.bfloat16)],
)
def test_float16_becomes_bfloat16(tmp_path, saved, trained):
    model = load_base(str(write_base(tmp_path, dtype=getattr(torch, saved))))
    assert model.dtype == model.network.dtype == trained


# -- saving -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_loads_back_unchanged(tmp_path, family, dtype):
    folder = write_base(tmp_path / "base", family)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 3], "temperature": 0.6}))
    model = adapted(folder)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    model.save(tmp_path / "saved", dtype)
    after = model.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.network.dtype == model.network.config.dtype == torch.float32
    assert not hasattr(model.network.config, CONFIG_KEY)

    back = nb.load(tmp_path / "saved", dtype="float32" if dtype is None else "bfloat16")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == str(back.dtype).split(".")[1]
    assert back.spec == model.spec
    assert back.eos_token_ids == set(model.eos_token_ids) == {0, 3}
    assert type(back.network) is type(model.network)
    for name, tensor in back.network.state_dict().items():
        assert torch.equal(tensor, before[name].to(back.dtype))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_saved_once(tmp_path, tied, dtype):
    model = adapted(write_base(tmp_path / "base", tie_word_embeddings=tied))
    model.save(tmp_path / "saved", dtype)
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
    assert "model.embed_tokens.weight" in names
    assert ("lm_head.weight" in names) == (not tied)
    assert not list((tmp_path / "saved").glob("*.bin"))


def published_as(folder, model_type, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": model_type, **changes}))
    return folder


def pangu(folder, template):
    """A checkpoint in openPangu's published form: a prompt is BOS and then the template's text."""
    shape = {"attention_bias": True, "mlp_bias": False, "tie_word_embeddings": False}
    published_as(write_base(folder, **shape), "PanguEmbedded", mask_token_id=1)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token": "<user>"}))
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize(
    "template",
    [
        "{% for turn in messages %}{{ turn['content'] }}{% endfor %}<bot>",
        "{{ bos_token }}{% for turn in messages %}{{ turn['content'] }}{% endfor %}<bot>",
    ],
)
def test_a_saved_model_encodes_the_prompts_of_the_published_checkpoint(tmp_path, template):
    folder = pangu(tmp_path / "base", template)
    expected = encode(nb.load(folder), TEXT)[1]
    assert expected.count(2) == 1
    assert expected[0] == 2
    model = adapted(folder)
    model.save(tmp_path / "saved")
    back = nb.load(tmp_path / "saved")
    assert not back.bos_before_template
    assert encode(back, TEXT)[1] == expected
    stock = AutoTokenizer.from_pretrained(tmp_path / "saved")
    turns = [{"role": "user", "content": TEXT}]
    assert stock.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] == expected
    assert model.tokenizer.chat_template == template


def test_a_saved_model_has_the_tensor_names_of_the_stock_class(tmp_path):
    """With the published names, transformers could not load it as the class in the saved config."""
    from safetensors.torch import load_file, save_file

    folder = write_base(tmp_path / "base", "ministral3", tie_word_embeddings=False)
    path = folder / "model.safetensors"
    tensors = {
        name.replace("model.", "encoder.", 1).replace("lm_head.", "diffusion_head."): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    published_as(folder, "nemotron_labs_diffusion", mask_token_id=1)
    model = adapted(folder)
    model.save(tmp_path / "saved")
    before, after = model.network.state_dict(), nb.load(tmp_path / "saved").network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


# -- whole runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_adapted_and_then_decodes(tmp_path, family):
    base = write_base(tmp_path / "base", family)
    recipe = small_recipe(
        base,
        small_data(tmp_path / "data.jsonl", rows=20),
        blocks={"kind": "fixed"},
        optimisation={"max_steps": 2, "rows": 1},
        saving={"save_every": 9, "eval_every": 0},
    )
    model = nb.load(start(recipe, tmp_path / "run", resume=False))
    assert model.spec.block_size == 8
    assert model.spec.mask_token_id == model.tokenizer.mask_token_id == 1
    before, after = (each.network.state_dict() for each in (nb.load(base), model))
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("proj.weight"))
    output = nb.generate(model, TEXT, strategy="block_diffusion", max_new_tokens=16)
    assert output.token_ids
    assert 1 not in output.token_ids


def test_a_block_diffusion_checkpoint_can_be_adapted_again():
    model = with_spec(load_base(str(GOLDEN / "tiny-block-diffusion")), 16, "token_causal", True)
    assert (model.spec.mask_token_id, model.spec.block_size) == (1, 16)
