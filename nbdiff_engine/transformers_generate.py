"""`custom_generate`: this engine as the decoding method of a stock transformers model.

    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt")
    model.generate(**ids, custom_generate=nb.custom_generate, strategy="block_diffusion", max_new_tokens=64)

The length, the sampling and the EOS are those of transformers' generation config and arguments; the other settings of
DecodeSettings are further arguments. What this engine does not have is refused by name.
"""

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from nbdiff_engine.decoding.checkpoint_defaults import defaults_of
from nbdiff_engine.decoding.live_text import LiveText
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.decoding.settings import SETTING_FIELDS
from nbdiff_engine.errors import SettingError
from nbdiff_engine.generate import prepare
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.network_check import check_network
from nbdiff_engine.model.spec import DiffusionSpec
from nbdiff_engine.trace.events import DecodeEvent, Finish

# Settings that the generation config decides.
_OF_CONFIG = {"max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "ignore_eos"}
_OWN = [name for name in SETTING_FIELDS if name not in {*_OF_CONFIG, "settings", "trace", "logprobs"}]
# What transformers makes of that config, and what this engine does itself.
_DONE_HERE = {
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "MinPLogitsWarper",
    "RepetitionPenaltyLogitsProcessor",
    "MaxLengthCriteria",
    "EosTokenCriteria",
}
_ROPE_BY_LENGTH = ("dynamic", "longrope")
_wrapped: WeakKeyDictionary[PreTrainedModel, BlockModel] = WeakKeyDictionary()


def custom_generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    show: BaseStreamer | None = None,
    **others: Any,
) -> Tensor:
    """Prompts [B, L] with their answers, [B, L + N]: a row that ends early is padded behind its end.

    Called by `model.generate(..., custom_generate=custom_generate)`. show: a transformers streamer, for one prompt; a
    TextDiffusionStreamer also shows the unfinished block. transformers keeps its own argument `streamer` from such a
    function. others: settings of DecodeSettings, and `attention_mask` with zeros at the padding before a prompt.

    Raises SettingError for a model, a setting or an object that this engine cannot decode with.
    """
    assert generation_config is not None
    for each in (*(logits_processor or ()), *(stopping_criteria or ())):
        if type(each).__name__ not in _DONE_HERE:
            raise SettingError(f"custom_generate cannot use a {type(each).__name__}; leave it out.")
    asked = defaults_of(generation_config)
    if asked.unsupported or generation_config.return_dict_in_generate:
        names = [
            *asked.unsupported,
            *(["return_dict_in_generate"] if generation_config.return_dict_in_generate else []),
        ]
        raise SettingError(f"custom_generate does not have {', '.join(names)}; leave it out.")
    ends = generation_config.eos_token_id
    prompts = _prompts(input_ids, others.get("attention_mask"))
    if show is not None and len(prompts) > 1:
        raise SettingError(f"A streamer shows one prompt, and {len(prompts)} were given.")
    job = prepare(
        _wrap(model),
        prompts,
        **asked.settings,
        **{name: others[name] for name in _OWN if others.get(name) is not None and name != "stop_token_ids"},
        max_new_tokens=generation_config.max_length - input_ids.shape[1],
        ignore_eos=True,
        stop_token_ids=[*([ends] if isinstance(ends, int) else ends or ()), *others.get("stop_token_ids", ())],
        trace=False,
    )
    answers: dict[int, tuple[int, ...]] = {}
    shown = None if show is None else _Shown(show, job.prompts[0], job.plan)
    for event in job.events():
        if shown is not None:
            shown.add(event)
        if isinstance(event, Finish):
            answers[event.row] = event.token_ids
    return _joined(input_ids, [answers[row] for row in range(len(prompts))], generation_config)


custom_generate.__signature__ = inspect.Signature(
    [
        each
        for each in inspect.signature(custom_generate).parameters.values()
        if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    + [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in _OWN]
    + [inspect.Parameter("model_kwargs", inspect.Parameter.VAR_KEYWORD)]
)  # transformers passes on only the arguments that the signature names


def _wrap(network: PreTrainedModel) -> BlockModel:
    """The network as a model of this engine; it is not changed, except that it is put into eval mode."""
    found = _wrapped.get(network)
    if found is None:
        name = network.config.name_or_path or type(network).__name__
        kind = getattr(getattr(network.base_model, "rotary_emb", None), "rope_type", None)
        if kind in _ROPE_BY_LENGTH:
            raise SettingError(f"{name} has {kind} RoPE, which depends on the text; load it with nbdiff_engine.load.")
        found = BlockModel(network, None, DiffusionSpec.from_config(network.config.to_dict(), name), name)
        check_network(found)
        _wrapped[network] = found
    return found


def _prompts(input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    rows = input_ids.tolist()
    if attention_mask is None:
        return rows
    found = []
    for row, kept in zip(rows, attention_mask.bool().tolist(), strict=True):
        first = kept.index(True) if True in kept else len(kept)
        if not all(kept[first:]):
            raise SettingError("A prompt has padding behind its tokens; use padding_side='left'.")
        found.append(row[first:])
    return found


def _joined(input_ids: Tensor, answers: list[tuple[int, ...]], config: GenerationConfig) -> Tensor:
    ends = config.eos_token_id if isinstance(config.eos_token_id, (list, tuple)) else [config.eos_token_id]
    padding = next((each for each in (config.pad_token_id, *ends) if each is not None), 0)
    longest = max(map(len, answers))
    rows = [[*own, *[padding] * (longest - len(own))] for own in answers]
    return torch.cat([input_ids, torch.tensor(rows, dtype=input_ids.dtype, device=input_ids.device)], dim=1)


class _Shown:
    """What a streamer is given of one answer."""

    def __init__(self, streamer: BaseStreamer, prompt: list[int], plan: DecodePlan):
        self._streamer = streamer
        self._plan = plan
        self._live = LiveText(plan, len(prompt))
        streamer.put(torch.tensor([prompt]))

    def add(self, event: DecodeEvent) -> None:
        given = len(self._live.tokens)
        self._live.add(event)
        for token in self._live.tokens[given:]:
            self._streamer.put(torch.tensor([token]))
        rest = self._live.canvas.tokens[len(self._live.tokens) :]
        if isinstance(event, Finish):
            self._streamer.end()
        elif rest and hasattr(self._streamer, "put_draft"):
            mask = self._plan.spec.mask_token_id
            self._streamer.put_draft(torch.tensor([mask if token is None else token for token in rest]))
