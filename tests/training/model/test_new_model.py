"""A new AR model: its tokenizer from texts, its network from a config."""

import pytest

from training.errors import RecipeError
from training.model.new_model import ASSISTANT, EOS, MASK, USER, new_model, train_tokenizer
from training.recipe.recipe import Network

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["red dog 12", "blue cat 345"] * 4, 300)


def test_decoded_texts_equal_the_encoded_ones_and_digits_are_single_tokens(tokenizer):
    for text in ("red dog 12", "  any\n\ttext ü €"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("12345")["input_ids"]) == 5


def test_mask_and_roles_are_tokens_of_a_new_tokenizer(tokenizer):
    assert tokenizer.convert_tokens_to_ids([EOS, MASK, USER, ASSISTANT]) == [0, 1, 2, 3]
    assert (tokenizer.eos_token_id, tokenizer.mask_token_id) == (0, 1)
    turns = [{"role": "user", "content": "red"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == "<user>red<bot>"


def test_the_vocabulary_size_is_the_tokenizers_and_not_the_configs(tokenizer):
    model = new_model(Network(config={**SHAPE, "vocab_size": 7}), tokenizer, 0, "new")
    assert model.network.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert (model.spec, model.eos_token_ids, model.context_length) == (None, (0,), 1024)
    assert model.network.generation_config.eos_token_id == 0


def test_the_weights_depend_only_on_the_seed(tokenizer):
    one, again, other = (
        new_model(Network(config=SHAPE), tokenizer, seed, "new").network.lm_head.weight for seed in (1, 1, 2)
    )
    assert one.equal(again)
    assert not one.equal(other)


def test_a_network_that_cannot_be_built_raises_one_sentence(tokenizer):
    with pytest.raises(RecipeError, match="type 'nosuch' cannot be made") as refused:
        new_model(Network(model_type="nosuch"), tokenizer, 0, "new")
    assert "\n" not in str(refused.value)
