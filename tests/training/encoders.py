"""Tokenizers with several kinds of chat templates, and the prompt tokens that decoding would use."""

import copy
import json

from transformers import AutoTokenizer

from nbdiff_engine.decoding import prompts
from tests.conftest import GOLDEN
from training.data.encoder import Encoder

EOS, MASK = 0, 1
PROMPT, ANSWER = "What is the capital of Peru?", "The capital of Peru is Lima."

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Removes the text before </think> from all messages except the last.
DROPS_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The generation prompt ends with <think>, which the template does not write before a finished answer.
OPENS_THOUGHT = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
TRIMMED = CHATML.replace("m['content']", "m['content'] | trim")
PLAIN = (
    "{% for m in messages %}{{ 'User: ' if m['role'] == 'user' else 'Bot: ' }}{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Bot: {% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "drops thoughts": DROPS_THOUGHTS,
    "opens thought": OPENS_THOUGHT,
    "trimmed": TRIMMED,
    "plain": PLAIN,
}
LOADED = AutoTokenizer.from_pretrained(GOLDEN / "tiny-block-diffusion")


def tokenizer_with(template: str | None):
    """The golden tokenizer with another template, and ChatML's tokens in its vocabulary."""
    tokenizer = copy.deepcopy(LOADED)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def encoder_with(template: str | None, **options) -> Encoder:
    tokenizer = tokenizer_with(template)
    return Encoder(tokenizer, [tokenizer.convert_tokens_to_ids("<|im_end|>"), EOS], **options)


class Model:
    """What the engine reads of a model to encode a prompt."""

    name, spec, context_length = "tiny", None, 10_000
    never_predicted = ()


def decoded_prompt(encoder: Encoder, prompt) -> list[int]:
    """The token ids of a prompt as the engine encodes it."""
    model = Model()
    model.tokenizer = encoder.tokenizer
    model.eos_token_ids = encoder.eos_token_ids
    model.bos_before_template = encoder.bos_before_template
    model.vocab_size = len(encoder.tokenizer)
    return prompts.encode(model, prompt, raw=encoder.raw)[1]


def turns_of(encoder: Encoder, document) -> list[str]:
    return [encoder.tokenizer.decode(document.ids[start:stop]) for start, stop in document.turns]


def conversation(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation: the texts are by the user and the assistant in turn."""
    roles = ("user", "assistant")
    opening = [] if system is None else [{"role": "system", "content": system}]
    return opening + [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


def written(path, rows) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)
