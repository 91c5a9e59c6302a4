"""The computations of the decoding benchmarks: counted work, split time, cut answers, turns, tables."""

from unittest.mock import ANY

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import decode_split
from benchmarks.contenders import Answers, contenders, cut, lossless_contenders
from benchmarks.decode_split import PARTS, measured, split
from benchmarks.measuring import ratio, table, take_turns
from benchmarks.race import RaceDifference, race, race_by_prompt
from benchmarks.roofline import ForwardWork, MachineLimits, work_of
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.session import Session
from nbdiff_engine.token_choice.sampling import Sampler
from nbdiff_engine.trace.metrics import Metrics
from tests.draft_adapters import tiny_drafter
from tests.tiny import prompt_ids, tiny_model


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("context", [4, 32])
def test_flops_of_a_forward_equal_those_that_torch_counts(width, context):
    model = tiny_model("llama")
    session = model.open(1, 64)
    session.prefill([prompt_ids(context)])
    # The math backend, because torch does not count the products inside its fused CPU kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        session.denoise([prompt_ids(width)])
    assert work_of(model, width, context).flops == counter.get_total_flops()


def test_bytes_of_a_forward_are_matrices_head_and_cache():
    model = tiny_model("llama")
    shape = model.network.config
    layers = shape.num_hidden_layers * (
        2 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.num_key_value_heads * shape.head_dim
        + 3 * shape.hidden_size * shape.intermediate_size
    )  # fmt: skip
    head = shape.vocab_size * shape.hidden_size
    cache = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * (10 + 3)
    assert work_of(model, 3, 10).bytes == 4 * (layers + head + cache)


def test_the_bound_is_the_slower_of_reading_and_computing():
    limits = MachineLimits("float32", 1.0, 10.0, 100.0)
    assert (limits.seconds(ForwardWork(50, 100)), limits.bound_by(ForwardWork(50, 100))) == (5.0, "reading")
    assert (limits.seconds(ForwardWork(50, 1000)), limits.bound_by(ForwardWork(50, 1000))) == (10.0, "arithmetic")


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_split_has_all_parts_and_restores_the_engine(strategy, batch):
    model = tiny_model("llama")
    prompts = [prompt_ids(5, seed=row) for row in range(batch)]
    before = (BlockModel.hidden, BlockModel.logits, Session.run, Sampler.predict, DecodePlan.positions_to_fix)
    found = split(model, prompts, 2, strategy=strategy, max_new_tokens=12)
    assert before == (BlockModel.hidden, BlockModel.logits, Session.run, Sampler.predict, DecodePlan.positions_to_fix)
    assert set(found.parts) == set(PARTS)
    assert all(seconds >= 0 for seconds in found.parts.values())
    assert found.parts["network"] > 0
    assert 0 < found.overhead < 1
    assert (found.parts["unmasking"] > 0) == (strategy == "block_diffusion")  # drafting uses no policy
    if strategy == "ar":
        assert found.forwards == 12


class StandInTime:
    """A stand-in for the module `time`. Its clock advances only in `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> StandInTime:
    time = StandInTime()
    monkeypatch.setattr(decode_split, "time", time)
    return time


def test_time_inside_the_event_generator_counts_as_engine_time(time):
    def events():
        yield 1
        time.sleep(6)
        yield 2

    assert decode_split._read(events()) == (6, 0)


def test_the_time_of_a_slow_reader_counts_as_idle_and_not_as_engine_time(time):
    model = tiny_model("llama")
    found = split(model, [prompt_ids(5)], 1, 10.0, strategy="ar", max_new_tokens=12)
    assert found.idle == 13 * 10  # prefill, eleven commits and the end
    assert found.engine == 0


def test_the_original_functions_are_restored_after_an_error():
    before = BlockModel.hidden
    with pytest.raises(RuntimeError), measured():
        raise RuntimeError
    assert BlockModel.hidden is before


def test_every_lossless_row_gives_the_tokens_of_ar():
    model = tiny_model("llama", spec={"block_size": 32})
    model.__dict__["eos_token_ids"] = frozenset({7})
    prompts = [prompt_ids(length, seed=length) for length in (9, 4, 6)]
    for batch in (1, 2):
        rows = contenders(model, model.network, None, prompts, 12, batch)
        found = race(model, rows, prompts, 1, "test")
        assert not found.differences
        assert all(row.equal_to_ar == 1 for row in found.rows if row.lossless)
        assert {row.name for row in found.rows} >= {"AR, ours", "transformers.generate", "self-speculation"}
        assert found.rows[0].x_ar == found.rows[1].x_transformers == 1
        assert len(found.to_text().splitlines()) == 1 + len(rows) == 1 + len(found.to_json()["rows"])


def test_rows_race_on_each_prompt():
    base, drafter = tiny_drafter("llama")
    prompts = [prompt_ids(length, seed=length) for length in (9, 4)]
    for stock in (None, base.network):
        turns = [lossless_contenders(drafter, stock, each, 12) for each in prompts]
        found = race_by_prompt(drafter, turns, prompts, "test")
        assert not found.differences
        assert all(row.equal_to_ar == 1 for row in found.rows)
        assert found.rows[0].x_ar == 1
        assert [row.x_transformers for row in found.rows] == (
            [None] * 2 if stock is None else [ANY, ANY, 1, *[ANY] * 3]
        )
        assert len(found.to_text().splitlines()) == 1 + len(turns[0])
    assert found.rows[-1].tokens_per_forward > 0


def test_a_difference_from_ar_is_one_line():
    line = "prompt 3, from token 5; AR's two best logits differ by 0.0250 there"
    assert str(RaceDifference("drafts", None, 3, 5, 0.025)) == f"not AR's tokens: drafts, {line}"
    assert str(RaceDifference("drafts", 8, 3, 5, 0.025)) == f"not AR's tokens: drafts, blocks of 8, {line}"


def test_an_answer_is_cut_after_its_first_eos():
    assert cut([4, 7, 5, 7], frozenset({7})) == [4, 7]
    assert cut([4, 5], frozenset({7})) == [4, 5]
    metrics = [
        Metrics(tokens, 0.0, 1.0, forwards, forwards, 0, None, None, 0, 0) for tokens, forwards in ((3, 2), (1, 0))
    ]
    assert Answers([[1, 2, 3], [1]], metrics).tokens_per_forward == 1.0


def test_ratios_are_computed_within_rounds():
    assert ratio([1, 20, 3], [2, 10, 3]) == 1.0
    calls = []
    seconds = take_turns([lambda: calls.append("a"), lambda: calls.append("b")], 3, "test")
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert [len(each) for each in seconds] == [3, 3]


def test_the_columns_of_a_table_are_aligned():
    assert table(("name", "n"), [("a", 1), ("bcdef", None)]) == "name   n\na      1\nbcdef"
