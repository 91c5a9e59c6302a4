"""NBDiffLM: answers and scores the requests of lm-evaluation-harness with the engine."""

import logging
import math
from typing import Any

import jinja2
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    Collator,
    has_bos_prefix,
    maybe_truncate,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

from nbdiff_engine.decoding.chat import read_turns, render
from nbdiff_engine.decoding.prompts import control_tokens_of
from nbdiff_engine.errors import CheckpointError, PromptError, SettingError
from nbdiff_engine.evaluation.likelihood import ar_likelihood, diffusion_likelihood
from nbdiff_engine.generate import prepare
from nbdiff_engine.lm_eval_adapter.arguments import ModelArguments, sampling_of
from nbdiff_engine.model.checkpoints import load
from nbdiff_engine.model.threads import choose_threads
from nbdiff_engine.trace.metrics import Metrics, Rates, pooled

log = logging.getLogger("lm_eval.models.nbdiff")  # a child of lm_eval's loggers, so that its log settings apply

_DEFAULT_DEVICE = "cuda:0"  # the default of lm_eval's command line
_CHOICES = 8
_SEED_STEP = 1_000_003  # added per batch: two answers to the same prompt must not use the same noise

Request = tuple[Any, list[int], list[int]]  # the harness's cache key, token ids of the context and of the continuation


class NBDiffLM(TemplateLM):
    """The harness's model `nbdiff`; its arguments are ModelArguments."""

    def __init__(self, **arguments: Any) -> None:
        """Load the checkpoint. Raises SettingError or CheckpointError with one sentence."""
        super().__init__()
        self.arguments = ModelArguments.of(**arguments)
        chosen = self.arguments
        self.model = load(chosen.model, dtype=chosen.dtype, device=chosen.device, quantization=chosen.quantization)
        choose_threads(self.model)
        self.tokenizer = self.model.tokenizer
        if self.tokenizer is None:
            raise CheckpointError(f"{self.model.name} has no tokenizer, and the harness gives its prompts as text.")
        self.control = control_tokens_of(self.model)
        if chosen.max_length is not None and chosen.max_length > self.model.context_length:
            raise SettingError(
                f"max_length is {chosen.max_length}; {self.model.name} has a context of {self.model.context_length}."
            )
        self.max_length = chosen.max_length or self.model.context_length
        self.batch_size = chosen.batch_size
        has_ar = self.model.spec is None or self.model.spec.commits_as_ar
        self.likelihood = chosen.likelihood or ("ar" if has_ar else "diffusion")
        self._batches: list[list[Metrics]] = []  # of all answers so far
        self._check()

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> "NBDiffLM":
        """Called by the harness. Values in model_args take precedence over the harness's --batch_size and --device,
        which its command line always passes: by default 1 and cuda:0."""
        others = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if others.get("device") == _DEFAULT_DEVICE and not torch.cuda.is_available():
            log.info("The default device of lm_eval, %s, is not available; another device is chosen.", _DEFAULT_DEVICE)
            del others["device"]
        return cls(**{**others, **arg_dict})

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "NBDiffLM":
        """As `create_from_arg_obj`, with arguments as "name=value,name=value"."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def _check(self) -> None:
        """Raise now the errors that the first request would raise."""
        if self.arguments.template_arguments:
            self.apply_chat_template([{"role": "user", "content": "Hello"}])
        job = prepare(self.model, [self.prefix_token_id], **self.arguments.decode_settings())
        for note in job.plan.notes:
            log.warning("%s", note)
        self._score([([self.prefix_token_id], [self.eot_token_id])])

    # -- properties of the model that the harness reads -----------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        token = self.tokenizer.eos_token_id
        if token is None:
            token = next(iter(sorted(self.model.eos_token_ids)), None)
        if token is None:
            raise CheckpointError(f"{self.model.name} has no end-of-sequence token, which the harness needs.")
        return token

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.model.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """The facts that the harness writes to its results file in addition to the arguments."""
        spec, rates = self.model.spec, _rates(self._batches)
        return {
            "model_num_parameters": self.model.parameters,
            "model_dtype": str(self.model.dtype),
            "block_diffusion": None if spec is None else spec.model_dump(mode="json"),
            "likelihood": self.likelihood,
            "generated_answers": rates.answers,
            "generated_tokens": rates.output_tokens,
            "decode_forwards": rates.decode_forwards,
            "tokens_per_forward": rates.tokens_per_forward,
            "tokens_per_second": rates.tokens_per_second,
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids. If the text already begins with a BOS, as from a chat template, no second one is added.

        As in the harness's own models, the names of control tokens in a text become these tokens; not those in the
        turns of a chat, which `apply_chat_template` has marked.
        """
        add = self.arguments.add_bos_token if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.bos_token):
            add = False
        return self.control.encode(string, add_special_tokens=add is None or add)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text, in the marked form of `ControlTokens`. A turn of the assistant at the end, which a
        task has begun, is continued. If the template refuses the conversation, it is rendered without its system turns,
        as in the harness's own models."""

        def rendered(turns: list[dict[str, str]]) -> str:
            arguments = self.arguments.template_arguments
            return render(self.model.name, self.tokenizer, read_turns(turns), arguments, self.control.mark)

        if not self.tokenizer.chat_template:
            raise SettingError(f"{self.model.name} has no chat template; leave out --apply_chat_template.")
        try:
            text = rendered(chat_history)
        except PromptError as error:
            if not isinstance(error.__cause__, jinja2.exceptions.TemplateError):
                raise
            log.warning("The chat template refuses this conversation; trying it without its system turns.")
            text = rendered([turn for turn in chat_history if turn["role"] != "system"])
        bos = self.tokenizer.bos_token
        if self.model.bos_before_template and bos and not text.startswith(bos):
            text = bos + text
        return text

    # -- answers --------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, in the order of the requests. Logs their tokens per forward and per second."""
        ordered = Collator(
            [request.args for request in requests],
            sort_fn=lambda each: (-len(self.tok_encode(each[0])), each[0]),
            group_by="gen_kwargs",
            group_fn=lambda each: each[1],
        )
        texts: list[str] = []
        before = len(self._batches)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for chunk in ordered.get_batched(n=self.batch_size):
                contexts, gen_kwargs = [each[0] for each in chunk], chunk[0][1]
                found = self._answer(contexts, gen_kwargs)
                for context, text in zip(contexts, found, strict=True):
                    self.cache_hook.add_partial("generate_until", (context, gen_kwargs), text)
                texts += found
                bar.update(len(chunk))
        rates = _rates(self._batches[before:])
        if rates.answers:
            log.info(
                "%d answers, %d tokens: %s tokens per forward, %.1f tokens/s, without prefill and first tokens",
                rates.answers,
                rates.output_tokens,
                "no" if rates.tokens_per_forward is None else f"{rates.tokens_per_forward:.2f}",
                rates.tokens_per_second or 0.0,
            )
        return ordered.get_original(texts)

    def _answer(self, contexts: list[str], gen_kwargs: dict[str, Any]) -> list[str]:
        """The answers of one batch, cut at their stop strings. Stores the metrics of the batch."""
        kwargs = dict(normalize_gen_kwargs(gen_kwargs, self.arguments.max_gen_toks))
        until = [each for each in kwargs.pop("until") if each]
        limit = kwargs.pop("max_gen_toks")
        if limit >= self.max_length:
            raise SettingError(
                f"max_gen_toks is {limit}; {self.model.name} holds {self.max_length} tokens of prompt and answer. "
                "Give a smaller one with --gen_kwargs max_gen_toks=..."
            )
        settings = self.arguments.decode_settings(
            **sampling_of(kwargs), max_new_tokens=limit, stop=tuple(until), trace=False
        )
        settings["seed"] = (settings.get("seed", 0) + _SEED_STEP * len(self._batches)) % 2**63
        prompts = [maybe_truncate(self.tok_encode(each), limit, self.max_length)[0] for each in contexts]
        outputs = prepare(self.model, [each or [self.prefix_token_id] for each in prompts], **settings).outputs()
        self._batches.append([output.metrics for output in outputs])
        return [postprocess_generated_text(output.text, until, None) for output in outputs]

    # -- likelihoods ----------------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        """Maximum tokens of a text to score and its context. A causal pass never reads the last token."""
        return self.max_length + (self.likelihood == "ar")

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Per request, the log-likelihood in nats and whether greedy decoding writes the continuation."""
        results: list[tuple[float, bool]] = []
        ordered = Collator(requests, sort_fn=lambda each: (-len(each[1]) - len(each[2]), each[1] + each[2]))
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            # More requests than rows: choices of a question that differ only in their last token share one row.
            for chunk in ordered.get_batched(n=self.batch_size * (_CHOICES if self.likelihood == "ar" else 1)):
                found = self._score([self._fitted(context, text) for _, context, text in chunk])
                for (request, _, _), result in zip(chunk, found, strict=True):
                    if request is not None:  # a window of a longer text is not a request of the harness
                        self.cache_hook.add_partial("loglikelihood", request, result)
                results += found
                bar.update(len(chunk))
        return ordered.get_original(results)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, each read in windows as long as the context."""
        windows: list[list[Request]] = []
        for request in requests:
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._room - 1,
                context_len=1,
            )
            windows.append([(None, *make_disjoint_window(each)) for each in rolling])
        scores = iter(self._loglikelihood_tokens([each for own in windows for each in own], disable_tqdm))
        results = []
        for request, own in zip(requests, windows, strict=True):
            results.append(math.fsum(next(scores)[0] for _ in own))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, results[-1])
        return results

    def _fitted(self, context: list[int], text: list[int]) -> tuple[list[int], list[int]]:
        """A context, cut from the left so that it fits together with the text. Raises SettingError if none fits."""
        room = self._room - len(text)
        if room < 1:
            raise SettingError(
                f"A text to score is {len(text)} tokens long; {self.model.name} holds {self.max_length}, and the text "
                "before it needs at least one."
            )
        if len(context) > room:
            log.warning("A context of %d tokens is cut to its last %d to fit with the text.", len(context), room)
        return context[-room:], text

    def _score(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        scored = [n for n, (_, text) in enumerate(pairs) if text]  # an empty text has probability 1
        results = [(0.0, True)] * len(pairs)
        chosen = [pairs[n] for n in scored]
        if self.likelihood == "ar":
            for n, each in zip(scored, ar_likelihood(self.model, chosen, batch_size=self.batch_size), strict=True):
                results[n] = (each.log_likelihood, each.greedy)
            return results
        settings = self.arguments.decode_settings()
        bounds = diffusion_likelihood(
            self.model,
            chosen,
            block_size=settings.get("block_size"),
            samples=self.arguments.samples,
            seed=settings.get("seed", 0),
            batch_size=self.batch_size,
        )
        for n, each in zip(scored, bounds, strict=True):
            results[n] = (each.log_likelihood, each.openings_greedy and self._is_greedy(*pairs[n]))
        return results

    def _is_greedy(self, context: list[int], text: list[int]) -> bool:
        """Whether greedy block-diffusion decoding writes this text; decodes it to find out."""
        settings = self.arguments.decode_settings(max_new_tokens=len(text), ignore_eos=True, trace=False)
        (written,) = prepare(self.model, context, **{**settings, "strategy": "block_diffusion"}).outputs()
        return written.token_ids == text


def _rates(batches: list[list[Metrics]]) -> Rates:
    """The rates of all answers of the batches."""
    numbers = [number for number, own in enumerate(batches) for _ in own]
    return pooled([each for own in batches for each in own], numbers)
