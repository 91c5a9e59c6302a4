"""`custom_generate`: this engine as the decoding loop of `generate` of transformers.

    network = AutoModelForCausalLM.from_pretrained(folder)
    network.generate(**inputs, max_new_tokens=64, custom_generate=nb.custom_generate, strategy="self_speculative")

transformers prepares the inputs and the generation config, and calls `custom_generate` for the tokens. The network is
used as it is: its layers are not rearranged, so `nbdiff_engine.load` decodes faster.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation import GenerateDecoderOnlyOutput, LogitsProcessorList, StoppingCriteriaList

from nbdiff_engine.decoding.checkpoint_defaults import defaults_of
from nbdiff_engine.decoding.live_text import LiveText
from nbdiff_engine.decoding.settings import SETTING_FIELDS
from nbdiff_engine.errors import SettingError, brief
from nbdiff_engine.generate import DecodeJob, prepare
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.network_check import check_network
from nbdiff_engine.model.rope import fix_rope_per_row, original_length_of
from nbdiff_engine.model.spec import DiffusionSpec

# Settings whose names `generate` of transformers has itself: length, sampling, penalties.
_OF_TRANSFORMERS = SETTING_FIELDS.keys() & vars(GenerationConfig()).keys()
# Settings that transformers has by another name, or that change no token of its result, with what to do.
_NOT_HERE = {
    "stop": "stop strings are given as stop_strings",
    "stop_token_ids": "the tokens that end an answer are those of eos_token_id",
    "ignore_eos": "the tokens that end an answer are those of eos_token_id",
    "settings": "sampling and penalties are always those of the generation config",
    "logprobs": "nbdiff_engine.generate returns them",
    "trace": "nbdiff_engine.generate returns it",
}
OPTIONS = tuple(name for name in SETTING_FIELDS if name not in _OF_TRANSFORMERS | _NOT_HERE.keys())

# Entries of the generation config that choose a cache or a way of decoding, which this engine chooses itself, with the
# values that change nothing.
_OWN_HERE: dict[str, tuple[Any, ...]] = {
    "use_cache": (True,),
    "cache_implementation": (),
    "cache_config": (),
    "max_cache_len": (),
    "low_memory": (False,),
    "prompt_lookup_num_tokens": (),
    "assistant_early_exit": (),
    "speculation_type": (),
    "use_mtp": (False,),
    "prefill_chunk_size": (),
    "compile_config": (),
}

# What transformers makes of entries of the generation config that are read from the config itself.
_KNOWN = {
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "MinPLogitsWarper",
    "RepetitionPenaltyLogitsProcessor",
    "MaxLengthCriteria",
    "EosTokenCriteria",
}
_ATTRIBUTE = "_nbdiff_block_model"  # of a network: its BlockModel, and the state of the weights that it was made of


class Streamer(Protocol):
    """A streamer of transformers. One with `put_draft`, such as TextDiffusionStreamer, also shows tokens that may still
    change."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


def custom_generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    stream_to: Streamer | None = None,
    stop_strings: str | Sequence[str] | None = None,
    stop_tokenizer: PreTrainedTokenizerBase | None = None,
    **options: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Token ids [B, L + N] of prompts and answers, N of the longest answer; shorter ones are padded on the right.

    input_ids: [B, L], padded on the left. options: OPTIONS, which are fields of DecodeSettings such as `strategy` and
    `block_size`; what transformers passes beside them is not used. Without `seed`, the seed of sampling comes from
    torch's random generator. stream_to: receives the prompt and then the answer of a single prompt. stop_tokenizer: the
    tokenizer in whose text stop_strings are looked for. They are not named `streamer` and `tokenizer`, because
    transformers 5.24 does not pass these to a callable.

    Raises SettingError with one sentence for a request that this engine does not have, and for a network that it cannot
    run.
    """
    config = generation_config or model.generation_config
    _refuse_what_is_not_here(config, [*(logits_processor or ()), *(stopping_criteria or ())], input_ids, stream_to)
    _refuse_options(model, config, options)
    if stop_strings and stop_tokenizer is None:
        raise SettingError(
            f"stop_strings is {brief(stop_strings)}, and its tokenizer is missing; give it as stop_tokenizer, because "
            "transformers does not pass on what is given as tokenizer."
        )
    own = _block_model(model)
    own.tokenizer = stop_tokenizer
    settings = {name: value for name, value in options.items() if name in OPTIONS and value is not None}
    defaults = defaults_of(config)
    if defaults.unsupported:
        name, value = next(iter(defaults.unsupported.items()))
        raise SettingError(f"{name} is {value!r}, which this engine does not have; leave it out.")
    settings |= defaults.settings
    if config.do_sample:
        settings.setdefault("seed", int(torch.randint(2**31, ())))
    ends = config.eos_token_id if config.eos_token_id is not None else []
    job = prepare(
        own,
        _prompts(input_ids, options.get("attention_mask")),
        max_new_tokens=config.max_length - input_ids.shape[1],
        ignore_eos=True,  # the tokens that end an answer are those of the call
        stop_token_ids=torch.as_tensor(ends, dtype=torch.long).flatten().tolist(),
        trace=False,
        **settings | ({"stop": stop_strings} if stop_strings else {}),
    )
    answers = _streamed(job, stream_to) if stream_to is not None else [each.token_ids for each in job.outputs()]
    sequences = torch.cat([input_ids, _padded(answers, config, input_ids)], dim=1)
    return GenerateDecoderOnlyOutput(sequences=sequences) if config.return_dict_in_generate else sequences


# transformers takes from its own arguments those that it finds in the signature of the callable.
custom_generate.__signature__ = inspect.Signature(
    [
        *(each for each in inspect.signature(custom_generate).parameters.values() if each.name != "options"),
        *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in (*OPTIONS, *_NOT_HERE)),
        inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD),
    ]
)


def _block_model(network: PreTrainedModel) -> BlockModel:
    """The network as a BlockModel, made once and again when its weights have changed. Raises SettingError or
    CheckpointError for one that cannot be decoded."""
    state = _state_of_weights(network)
    known, of_state = getattr(network, _ATTRIBUTE, (None, None))
    if known is not None and of_state == state:
        return known
    name = network.config.name_or_path or type(network).__name__
    attention = network.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise SettingError(
            f"The attention of {name} is {attention!r}, which takes no mask of blocks; "
            "load the network with attn_implementation='sdpa'."
        )
    if original_length_of(network.config) is not None:
        raise SettingError(f"{name} has LongRoPE, whose frequencies are fixed per row by nbdiff_engine.load; use that.")
    fix_rope_per_row(network, name)  # raises for other frequencies that depend on the length
    model = BlockModel(network, None, DiffusionSpec.from_config(network.config.to_dict(), name), name)
    check_network(model)
    setattr(network, _ATTRIBUTE, (model, state))
    return model


def _state_of_weights(network: PreTrainedModel) -> tuple[object, ...]:
    """What a BlockModel keeps of a network: its dtype, its device, and the values of its head, which it may copy."""
    weight = getattr(network.get_output_embeddings(), "weight", None)
    if weight is None:
        return network.dtype, network.device
    version = None if weight.is_inference() else weight._version  # grows with every change in place
    return network.dtype, network.device, weight.dtype, weight.data_ptr(), version


def _refuse_what_is_not_here(
    config: GenerationConfig, parts: Sequence[object], input_ids: Tensor, stream_to: Streamer | None
) -> None:
    if input_ids.shape[1] == 0:
        raise SettingError("There are no input_ids, which this engine needs; inputs_embeds alone are not enough.")
    for part in parts:
        if type(part).__name__ not in _KNOWN:
            raise SettingError(f"A {type(part).__name__} was given, which this engine cannot apply; leave it out.")
    if config.num_return_sequences not in (None, 1):
        raise SettingError(
            f"num_return_sequences is {config.num_return_sequences}; call generate once for each, with another seed."
        )
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, name, None):
            raise SettingError(f"{name} is set, which this engine does not return; leave it out.")
    if stream_to is not None and len(input_ids) != 1:
        raise SettingError(f"stream_to takes one prompt, but there are {len(input_ids)}; call generate for each.")


def _refuse_options(model: PreTrainedModel, config: GenerationConfig, options: Mapping[str, Any]) -> None:
    """Raise SettingError for an option that has no effect here. What the checkpoint's own generation config says of
    caches is no wish of the caller."""
    for name, instead in _NOT_HERE.items():
        if options.get(name) is not None:
            raise SettingError(f"{name} is {brief(options[name])}, which has no effect here: {instead}; leave it out.")
    for name, neutral in _OWN_HERE.items():
        value = getattr(config, name, None)
        if value is not None and value not in neutral and value != getattr(model.generation_config, name, None):
            raise SettingError(f"{name} is {brief(value)}, which this engine does not have; leave it out.")
    if getattr(options.get("cache"), "_is_user_defined", False):
        raise SettingError("A cache is given, but this engine has its own; leave it out.")


def _prompts(input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    """The tokens of each row without its padding."""
    if attention_mask is None:
        return input_ids.tolist()
    kept = attention_mask.bool()
    if (kept[:, :-1] & ~kept[:, 1:]).any():
        raise SettingError("A prompt has padding after its tokens; use padding_side='left'.")
    return [row[own].tolist() for row, own in zip(input_ids, kept, strict=True)]


def _padded(answers: Sequence[Sequence[int]], config: GenerationConfig, like: Tensor) -> Tensor:
    """[B, N]: the answers, with padding after them."""
    padding = config.pad_token_id if config.pad_token_id is not None else config.eos_token_id
    padding = 0 if padding is None else int(torch.as_tensor(padding).flatten()[0])
    longest = max(map(len, answers))
    return like.new_tensor([[*each, *[padding] * (longest - len(each))] for each in answers])


def _streamed(job: DecodeJob, to: Streamer) -> list[list[int]]:
    """The answer of a single row, given to `to` as its tokens become final."""
    prompt = job.prompts[0]
    to.put(torch.tensor(prompt))
    live, put = LiveText(job.plan, len(prompt)), 0
    for event in job.events():
        live.add(event)
        if len(live.tokens) > put:
            to.put(torch.tensor(live.tokens[put:]))
            put = len(live.tokens)
        drafts = [] if live.over else [each for each in live.canvas.tokens[put:] if each is not None]
        if drafts and hasattr(to, "put_draft"):
            to.put_draft(torch.tensor(drafts))
    to.end()
    return [live.tokens]
