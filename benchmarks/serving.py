"""A server under load: requests that arrive at random, against one answer at a time.

    python benchmarks/serving.py
    python benchmarks/serving.py --models nano smollm2 --rates 1 4 --requests 24 --tokens 64 --save
    python benchmarks/serving.py --models path/to/checkpoint --strategies ar --transformers

Requests arrive as a Poisson process, with a seed, at several rates; the prompts are held-out ones. Each line is one
model, one server and one rate: tokens per second from the first request to the last token, seconds from a request to
its first text, and seconds between two texts of an answer, which with blocks hold several tokens. `rows 1` answers one
request at a time; its others wait. The second table is the time to the first text of a conversation's second turn,
where the prefix cache has the first turn and where it has not. --transformers starts `transformers serve` on the same
weights in the same precision, and sends the same requests to it; it is AR, and needs
`pip install transformers[serving]`. An AR checkpoint is measured with AR alone. The last line is JSON.
"""

import asyncio
import itertools
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx
import numpy as np
from tqdm import tqdm

import nbdiff_engine as nb
from benchmarks.measuring import BenchmarkParser, Report, at_least, held_out_prompts, run, table
from nbdiff_engine.decoding.settings import STRATEGIES
from nbdiff_engine.model.description import describe
from nbdiff_engine.serving.remote import RemoteServer

START_SECONDS = 300.0  # that a server may take to load its model
CONVERSATIONS = 3  # of the second table


@dataclass(slots=True)
class TimedAnswer:
    """Seconds since the request of one answer. texts: of each chunk with text."""

    texts: list[float]
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What one server did at one rate, in seconds but for the rate and tokens."""

    model: str
    server: str
    strategy: str
    rate: float
    tokens_per_second: float
    first_p50: float
    first_p99: float
    between_p50: float
    between_p99: float

    @classmethod
    def of(
        cls, model: str, server: str, strategy: str, rate: float, seconds: float, answers: Sequence[TimedAnswer]
    ) -> "Load":
        first = [answer.texts[0] for answer in answers if answer.texts]
        between = [late - early for answer in answers for early, late in zip(answer.texts, answer.texts[1:])]
        tokens = sum(answer.tokens for answer in answers)
        points = [float(np.percentile(each or [0.0], p)) for each in (first, between) for p in (50, 99)]
        return cls(model, server, strategy, rate, tokens / seconds, *points)


async def ask(client: httpx.AsyncClient, body: dict) -> TimedAnswer:
    """One streamed request, to its end."""
    begun = time.perf_counter()
    answer = TimedAnswer([])
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise nb.NBDiffError(
                f"The server answers {response.status_code}: {(await response.aread()).decode()[:200]}"
            )
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk.get("usage"):
                answer.tokens = chunk["usage"]["completion_tokens"]
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                answer.texts.append(time.perf_counter() - begun)
    answer.tokens = answer.tokens or len(answer.texts)
    return answer


async def under_load(address: str, bodies: Sequence[dict], rate: float, seed: int) -> tuple[float, list[TimedAnswer]]:
    """Send the requests at random times, `rate` a second; the seconds to the last token, and the answers."""
    waits = random.Random(seed)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        begun = time.perf_counter()
        asked = []
        for body in bodies:
            asked.append(asyncio.create_task(ask(client, body)))
            await asyncio.sleep(waits.expovariate(rate))
        answers = await asyncio.gather(*asked)
        return time.perf_counter() - begun, answers


async def second_turns(address: str, common: dict, prompts: Sequence[str]) -> tuple[list[float], list[float]]:
    """Seconds to the first text of the second turn of conversations with a long first turn, each alone: where the
    server has answered the first turn, and where it sees the whole conversation for the first time."""
    known, new = [], []
    async with httpx.AsyncClient(base_url=address, timeout=600) as client:
        for number in range(CONVERSATIONS):
            turns = [{"role": "user", "content": f"{number} " + " ".join(prompts)}]
            response = await client.post("/v1/chat/completions", json={**common, "messages": turns})
            said = response.raise_for_status().json()["choices"][0]["message"]["content"]
            turns += [{"role": "assistant", "content": said}, {"role": "user", "content": "Say more."}]
            other = [{"role": "user", "content": f"{number}{number} " + " ".join(prompts)}, *turns[1:]]
            for found, messages in ((known, turns), (new, other)):
                answer = await ask(client, {**common, "messages": messages, "stream": True})
                found += answer.texts[:1]
    return known, new


@contextmanager
def server(command: Sequence[str], port: int) -> Iterator[str]:
    """The address of a server in a separate process. Raises NBDiffError if it does not start."""
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        try:
            stop = time.monotonic() + START_SECONDS
            while True:
                if process.poll() is not None:
                    reason = process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
                    raise nb.NBDiffError(f"The server has ended: {' '.join(reason)}")
                try:
                    httpx.get(f"{address}/health")
                    break
                except httpx.TransportError as error:
                    if time.monotonic() > stop:
                        raise nb.NBDiffError(f"The server has not started in {START_SECONDS:g} s.") from error
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def transformers_command() -> str:
    """The path of the command `transformers`. Raises SettingError if there is none."""
    found = shutil.which("transformers", path=str(Path(sys.executable).parent)) or shutil.which("transformers")
    if found is None:
        raise nb.SettingError("There is no command `transformers`; leave out --transformers.")
    return found


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--models", nargs="+", default=["nano"], help="bundled names, folders or hub ids")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 4.0], help="requests per second")
    parser.add_argument("--rows", nargs="+", type=at_least(1), default=[1, 16], help="answers decoded together")
    parser.add_argument("--requests", type=at_least(1), default=24, help="of each rate")
    parser.add_argument("--tokens", type=at_least(1), default=64, help="the longest answer")
    parser.add_argument("--seed", type=int, default=0, help="of the times at which requests arrive")
    parser.add_argument("--transformers", action="store_true", help="also measure `transformers serve` on each model")
    parser.add_save()
    options = parser.parse_args()
    if min(options.rates) <= 0:
        raise nb.SettingError(f"A rate is {min(options.rates):g} requests a second; it must be above 0.")
    report = Report("serving", options.save)
    prompts = held_out_prompts(options.requests)
    loads: list[Load] = []
    second: dict[str, dict[str, float]] = {}

    def measure(address: str, model: str, name: str, asked_as: str, cases: Sequence[tuple[str, dict]]) -> None:
        """One server, all its strategies and rates. No prompt comes twice, so that none is in the prefix cache."""
        common = {"model": asked_as, "max_tokens": options.tokens, "stream": True, "temperature": 0}
        number = itertools.count()
        for strategy, own in cases:
            for rate in tqdm([100, *options.rates], desc=f"{model}, {name}, {strategy}", leave=False, disable=None):
                asked = prompts[:2] if rate == 100 else prompts  # two requests to warm up
                turns = [[{"role": "user", "content": f"{next(number)}. {prompt}"}] for prompt in asked]
                bodies = [{**common, **own, "messages": each} for each in turns]
                seconds, answers = asyncio.run(under_load(address, bodies, rate, options.seed))
                if rate != 100:
                    loads.append(Load.of(model, name, strategy, rate, seconds, answers))

    for given in options.models:
        model = Path(given).name  # the place of a folder is of no interest
        for rows in options.rows:
            port = free_port()
            command = [sys.executable, "-m", "nbdiff_engine", "serve", given, "--served-name", model]
            command += ["--port", str(port), "--dtype", options.dtype, "--rows", str(rows)]
            with server(command, port) as address:
                served = RemoteServer(address).models()[0]
                strategies = options.strategies if served.spec is not None else ["ar"]
                usage = {"stream_options": {"include_usage": True}}
                measure(
                    address, model, f"rows {rows}", model, [(each, usage | {"strategy": each}) for each in strategies]
                )
                if rows == options.rows[-1]:
                    common = {"model": model, "max_tokens": 16, "temperature": 0, "strategy": strategies[0]}
                    known, new = asyncio.run(second_turns(address, common, prompts[:8]))
                    turns = {"in the prefix cache": known, "not in it": new}
                    second[model] = {name: statistics.median(each) for name, each in turns.items() if each}
        if options.transformers:
            folder, port = str(describe(given).folder), free_port()  # of an adapter: its base
            command = [transformers_command(), "serve", folder, "--port", str(port), "--dtype", served.dtype]
            with server(command, port) as address:
                measure(address, model, "transformers serve", folder, [("ar", {})])

    what = f"{', '.join(dict.fromkeys(each.model for each in loads))}, {options.requests} requests"
    report.write(f"{what} of at most {options.tokens} tokens at each rate")
    heads = ("model", "server", "strategy", "requests/s", "tokens/s", "first p50, s", "p99", "between p50, s", "p99")
    cells = [
        (
            each.model, each.server, each.strategy, f"{each.rate:g}", f"{each.tokens_per_second:.1f}",
            f"{each.first_p50:.2f}", f"{each.first_p99:.2f}", f"{each.between_p50:.3f}", f"{each.between_p99:.3f}",
        )
        for each in loads
    ]  # fmt: skip
    report.write(table(heads, cells, left=3))
    report.write("\nsecond turn of a conversation")
    rows = [(model, name, f"{each:.3f}") for model, turns in second.items() for name, each in turns.items()]
    report.write(table(("model", "first turn", "first text, s"), rows, left=2))
    report.finish({"loads": [asdict(each) for each in loads], "second_turn": second})


if __name__ == "__main__":
    run(main)
