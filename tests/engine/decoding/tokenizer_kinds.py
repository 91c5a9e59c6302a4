"""Small tokenizers of the usual kinds, trained here on a text in many scripts."""

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = {
    "latin": "Žluťoučký kůň, façade, Ångström, naïve coöperation; Straße.",
    "greek": "Ο Σωκράτης ήταν φιλόσοφος στην Αθήνα.",
    "cyrillic": "Съешь же ещё этих мягких французских булок.",
    "arabic": "القاهرة هي عاصمة مصر، وهي مدينة كبيرة.",
    "hebrew": "ירושלים היא עיר עתיקה מאוד.",
    "devanagari": "नई दिल्ली भारत की राजधानी है।",
    "thai": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "chinese": "秘鲁的首都是利马，是一座古老的城市。",
    "japanese": "ペルーの首都はリマです。とても古い町。",
    "korean": "페루의 수도는 리마이다.",
    "emoji": "A family 👨‍👩‍👧‍👦, a flag 🇵🇪 and a wave 👋🏽!",
    "code": "def f(x):\n\tif x > 1:\n\t\treturn [x * 2]\n\n    # end\n",
    "words": "The capital of Peru is Lima, isn't it? Yes .",
}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<mask>"]
KINDS = ("byte_level", "byte_fallback", "metaspace", "wordpiece")


@cache
def tokenizer_of(kind: str, size: int = 400) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is too small for whole characters of most scripts."""
    special = [AddedToken(name, special=True, normalized=False) for name in SPECIAL]
    # Half of the scripts, so that the others have characters that the vocabulary lacks.
    known = [TEXTS[name] for name in ("latin", "greek", "cyrillic", "code", "words")] * 3
    if kind == "byte_level":
        whole = Tokenizer(models.BPE())
        whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        whole.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        whole.train_from_iterator(list(TEXTS.values()) * 3, trainer)
    elif kind == "byte_fallback":  # as Llama 2's: the vocabulary has a token for each byte
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        whole = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        whole.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        trainer = trainers.BpeTrainer(
            vocab_size=256 + size, special_tokens=[*special, "<unk>", *bytes_], show_progress=False
        )
        whole.train_from_iterator(known, trainer)
        state = json.loads(whole.to_str())
        # The trainer makes the byte tokens special; they are ordinary tokens of the model.
        state["added_tokens"] = [each for each in state["added_tokens"] if each["content"] not in bytes_]
        whole = Tokenizer.from_str(json.dumps(state))
        whole.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    elif kind == "metaspace":
        whole = Tokenizer(models.BPE(unk_token="<unk>"))
        whole.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        whole.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*special, "<unk>"], show_progress=False)
        whole.train_from_iterator(list(TEXTS.values()) * 3, trainer)
    else:
        whole = Tokenizer(models.WordPiece(unk_token="<unk>"))
        whole.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        whole.decoder = decoders.WordPiece(cleanup=False)
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=[*special, "<unk>"], show_progress=False)
        whole.train_from_iterator(list(TEXTS.values()) * 3, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": None if kind == "byte_level" else "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=whole, clean_up_tokenization_spaces=False, **names)
