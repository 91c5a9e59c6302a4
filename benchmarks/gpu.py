"""A GPU in six minutes: decoding at batch 1 and 16, the cost of width, training steps, and the share of the bound.

    python benchmarks/gpu.py --save
    python benchmarks/gpu.py --adapter path/to/adapter    # with the drafts of a trained draft adapter of smollm2
    python benchmarks/gpu.py --small                      # tiny random models, on a CPU too: a test of this script

Two models in bfloat16: smollm2, and a Llama of 6.7 billion random parameters, the shape of Llama 2 7B. Without
--adapter, and always for the random model, the draft adapter is random: what a forward costs is the same, but no draft
is right, so the tokens per second of self-speculation are its worst case. "bound" is the time to read weights, keys and
values once, at the rate at which this machine copies memory. A section that would begin after five minutes is left out.
The last line is JSON.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import nbdiff_engine as nb
from benchmarks.draft_step import seconds_of
from benchmarks.measuring import BenchmarkParser, Report, run, synchronise, table, take_turns, timed
from benchmarks.roofline import work_of
from nbdiff_engine.errors import SettingError
from nbdiff_engine.model.draft_adapter import DraftAdapter, LowRank
from nbdiff_engine.model.draft_spec import BaseIdentity, DraftSpec
from nbdiff_engine.trace.metrics import pooled
from training.model.base import TrainedModel
from training.recipe.recipe import Recipe

BATCHES = (1, 16)
WIDTHS = (1, 2, 4, 8, 16, 32, 64)
BLOCK_SIZE = 8
RANK = 32
LAST_START = 300  # seconds after the start; a section takes less than a minute
NO_GRAPHS = (
    "CUDA graphs: left out. The engine prepares masks and slices of the cache for the length of each text, which a "
    "captured graph cannot do; every forward starts its kernels one by one."
)
LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1536, "max_position_embeddings": 512,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. prompt, answer: tokens. copied: bytes of a copy."""

    prompt: int
    answer: int
    rounds: int
    steps: int
    packed_length: int
    copied: int


FULL, SMALL = Size(128, 96, 10, 3, 1024, 2**30), Size(8, 6, 1, 1, 64, 2**22)


@dataclass(frozen=True, slots=True)
class Decoding:
    """One strategy at one batch size. bound: of AR's forward, in milliseconds; reached: its share of the time."""

    strategy: str
    batch: int
    tokens_per_second: float
    tokens_per_forward: float
    milliseconds: float  # of a forward of all rows
    bound: float | None
    reached: float | None


@dataclass(frozen=True, slots=True)
class Width:
    """Milliseconds of a causal forward with all its logits. ratio: to the forward of one token."""

    tokens: int
    batch: int
    milliseconds: float
    ratio: float


def bytes_per_second(device: torch.device, size: int) -> float:
    """The rate of a copy: each byte is read and written."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / min(timed(lambda: target.copy_(source)) for _ in range(10))


# -- models ----------------------------------------------------------------------------------------------


def random_network(shape: dict[str, int], device: torch.device) -> nn.Module:
    config = AutoConfig.for_model("llama", **shape)
    torch.manual_seed(0)
    with device:  # 13 GB of weights are made where they stay
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def random_drafter(network: nn.Module, tokenizer: Any, name: str) -> nb.BlockModel:
    """The network with a draft adapter of random weights on all linear layers of its body."""
    identity = BaseIdentity(
        name=name, model_type=network.config.model_type, parameters=network.num_parameters(), fingerprint="0" * 64
    )
    spec = DraftSpec(block_size=BLOCK_SIZE, base=identity)
    vocabulary, size = network.get_input_embeddings().weight.shape
    device, dtype = network.device, network.dtype
    changes = {
        layer: LowRank(
            torch.randn(RANK, layer.in_features, device=device, dtype=dtype),
            torch.randn(layer.out_features, RANK, device=device, dtype=dtype) * 0.001,
        )
        for layer in network.base_model.modules()
        if isinstance(layer, nn.Linear)
    }
    draft = DraftAdapter(spec, vocabulary, changes, torch.randn(size, device=device, dtype=dtype))
    return nb.BlockModel(network, tokenizer, spec.diffusion_spec(vocabulary), name, fused=True, draft=draft)


# -- what is measured ------------------------------------------------------------------------------------


def decodings(model: nb.BlockModel, prompts: Sequence[Sequence[int]], size: Size, copying: float) -> list[Decoding]:
    """AR and self-speculation, each after a short answer that allocates memory."""
    found = []
    common = {"max_new_tokens": size.answer, "ignore_eos": True, "trace": False}
    speculative = {"strategy": "self_speculative", "block_size": BLOCK_SIZE}
    kinds = {
        "AR": {"strategy": "ar"},
        "self-speculation, auto": {**speculative, "draft_layout": "auto"},
        "self-speculation, behind_last": {**speculative, "draft_layout": "behind_last", "draft_confidence": 0.0},
    }
    for batch in BATCHES:
        rows = [list(prompts[index % len(prompts)]) for index in range(batch)]
        for name, settings in kinds.items():
            nb.generate(model, rows, **{**common, **settings, "max_new_tokens": 4})
            outputs = nb.generate(model, rows, **common, **settings)
            rates = pooled([each.metrics for each in outputs], [0] * batch)
            forwards = max(each.metrics.decode_forwards for each in outputs)
            milliseconds = 1e3 * rates.decode_seconds / forwards
            bound = reached = None
            if name == "AR":
                longest = max(map(len, rows)) + size.answer // 2
                bound = 1e3 * work_of(model, 1, longest, rows=batch).bytes / copying
                reached = bound / milliseconds
            found.append(
                Decoding(name, batch, rates.tokens_per_second, rates.tokens_per_forward, milliseconds, bound, reached)
            )
    return found


def widths(model: nb.BlockModel, size: Size) -> list[Width]:
    found = []
    for batch in BATCHES:
        session = model.open(batch, size.prompt + max(WIDTHS))
        session.prefill([[5] * size.prompt] * batch)

        def forward(width: int, session=session, batch=batch):
            session.rollback([size.prompt] * batch)
            session.commit([[5] * width] * batch)

        calls = [lambda width=width: forward(width) for width in WIDTHS]
        for call in calls:
            call()  # warm-up
        medians = [1e3 * statistics.median(each) for each in take_turns(calls, size.rounds, f"batch {batch}")]
        found += [Width(width, batch, each, each / medians[0]) for width, each in zip(WIDTHS, medians)]
    return found


def steps(make: Callable[[], nn.Module], tokenizer: Any, size: Size, name: str) -> dict[str, float]:
    """Seconds of a step of adaptation by LoRA (lora.mode all) and of one of a draft adapter, on the same documents.

    make: the network that gets the adapters, a new one for each."""
    length = size.packed_length
    common = {
        "base": name,
        "data": {"source": "corpus", "held_out": 1},
        "blocks": {"kind": "fixed", "b_max": BLOCK_SIZE},
        "optimisation": {"packed_length": length, "rows": 2, "max_steps": 1, "gradient_checkpointing": False},
        "precision": "bf16",
    }
    kinds = {
        "adaptation, LoRA": {"lora": {"rank": RANK}},
        "draft adapter": {"lora": {"rank": RANK, "mode": "draft_only"}},
    }
    eos = (tokenizer.eos_token_id,)
    found = {}
    for kind, sections in kinds.items():
        base = TrainedModel(make(), tokenizer, None, name, torch.bfloat16, length, eos)
        recipe = Recipe.model_validate({**common, **sections})
        seconds, tokens = seconds_of(recipe, base, size.steps, now)
        found[kind] = statistics.median(seconds)
        found["clean tokens"] = tokens
    return found


def now() -> float:
    synchronise()
    return time.perf_counter()


# -- the report ------------------------------------------------------------------------------------------


def measure(
    report: Report, name: str, model: nb.BlockModel, prompts: Sequence[Sequence[int]], size: Size, copying: float
) -> dict[str, Any]:
    """Print the tables of decoding of one model; its figures."""
    report.write(f"\n{name}: {model.parameters / 1e6:,.1f} million parameters, {model.dtype}, block {BLOCK_SIZE}")
    decoded = decodings(model, prompts, size, copying)
    rows = [
        (
            each.strategy, each.batch, f"{each.tokens_per_second:.1f}", f"{each.tokens_per_forward:.2f}",
            f"{each.milliseconds:.2f}", each.bound and f"{each.bound:.2f}", each.reached and f"{each.reached:.0%}",
        )
        for each in decoded
    ]  # fmt: skip
    report.write(table(("strategy", "batch", "tokens/s", "per forward", "ms/forward", "bound ms", "reached"), rows))
    by_width = widths(model, size)
    rows = [(each.batch, each.tokens, f"{each.milliseconds:.2f}", f"{each.ratio:.2f}") for each in by_width]
    report.write("\n" + table(("batch", "width", "ms", "x 1 token"), rows, left=0))
    return {"decoding": [asdict(each) for each in decoded], "widths": [asdict(each) for each in by_width]}


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--adapter", help="draft adapter of smollm2: a folder, or the name of a bundled one")
    parser.add_argument("--small", action="store_true", help="tiny random models, on any device")
    parser.add_save()
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        raise SettingError("This benchmark needs a CUDA GPU, and torch finds none; --small tries it on the CPU.")
    started = time.perf_counter()
    size = SMALL if options.small else FULL
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report("gpu", options.save)
    copying = bytes_per_second(device, size.copied)
    report.write(f"Memory: {copying / 1e9:,.0f} GB/s, reading and writing of a copy\n{NO_GRAPHS}")
    figures: dict[str, Any] = {"bytes_per_second": copying, "graphs": False, "models": {}}
    tokenizer = nb.load("nano-ar", device="cpu").tokenizer
    for name in ("smollm2", "random 7B"):
        real = name == "smollm2" and not options.small

        def make(name=name, real=real) -> nn.Module:
            if real:
                return nb.load(name, dtype="bfloat16", device=str(device), fused=False).network
            return random_network(TINY if options.small else LLAMA_7B, device)

        if time.perf_counter() - started > LAST_START:
            report.write(f"\n{name}: left out, the time is over")
            continue
        prompts = [torch.randint(5, 1000, (size.prompt,), generator=torch.manual_seed(0)).tolist()]
        texts = tokenizer
        if real:
            model = nb.load(name, dtype="bfloat16", device=str(device), adapter=options.adapter)
            texts = model.tokenizer
            prompts = nb.prepare(model, [[{"role": "user", "content": text}] for text in QUESTIONS]).prompts
        if not real or options.adapter is None:
            model = random_drafter(make(), texts, name)
        own = measure(report, name, model, prompts, size, copying)
        figures["models"][name] = own
        if time.perf_counter() - started > LAST_START:
            report.write("training steps: left out, the time is over")
            continue
        del model  # its memory is needed
        own["steps"] = steps(make, texts, size, name)
        lines = [f"{kind}: {value:.3f} s" for kind, value in own["steps"].items() if kind != "clean tokens"]
        report.write(f"\na step of {own['steps']['clean tokens']} clean tokens, rank {RANK}: " + "; ".join(lines))
    report.write(f"\n{time.perf_counter() - started:.0f} s in all")
    report.finish(figures)


QUESTIONS = (
    "What is the capital of Peru, and what is it known for?",
    "Write a short poem about the sea.",
    "A farmer has 12 sheep and buys 7 more. Then he sells 5. How many sheep does he have?",
    "Write a Python function that returns the n-th Fibonacci number.",
)


if __name__ == "__main__":
    run(main)
