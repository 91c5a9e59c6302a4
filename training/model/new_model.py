"""A new AR model for `pretrain`: a BPE tokenizer trained on the data, and a network from a config."""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nbdiff_engine.errors import brief, brief_text
from training.errors import RecipeError
from training.model.base import TrainedModel
from training.recipe.recipe import Network

EOS, MASK, USER, ASSISTANT = "<eos>", "<mask>", "<user>", "<bot>"
CHAT_TEMPLATE = (
    "{% for turn in messages %}"
    "{% if turn['role'] == 'assistant' %}<bot>{{ turn['content'] }}<eos>"
    "{% else %}<user>{{ turn['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer in which every digit is one token, so that a number has only one encoding.

    It already has MASK, so that a later adaptation changes no shapes.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, MASK, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        mask_token=MASK,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def new_model(settings: Network, tokenizer: PreTrainedTokenizerBase, seed: int, name: str) -> TrainedModel:
    """A randomly initialised network from the recipe's config. The vocabulary size is that of the tokenizer.

    Raises RecipeError if transformers cannot make a network from the config.
    """
    eos = tokenizer.eos_token_id
    fields = {"max_position_embeddings": 1024, "tie_word_embeddings": True, **settings.config}
    fields |= {"vocab_size": len(tokenizer), "eos_token_id": eos, "pad_token_id": eos, "bos_token_id": None}
    try:
        config = AutoConfig.for_model(settings.model_type, **fields)
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"A network of type {brief(settings.model_type)} cannot be made from this config: "
            f"{brief_text(str(error), 200)}"
        ) from error
    network.generation_config.eos_token_id = network.generation_config.pad_token_id = eos
    return TrainedModel(
        network=network,
        tokenizer=tokenizer,
        spec=None,
        name=name,
        dtype=torch.bfloat16,
        context_length=config.max_position_embeddings,
        eos_token_ids=(eos,),
    )
