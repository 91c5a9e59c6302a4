"""The figures of /metrics, in the format of Prometheus: requests, tokens, waiting times, state of the scheduler."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nbdiff_engine.serving.scheduler import Scheduler

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class ServerMetrics:
    """The figures of one server."""

    def __init__(self, scheduler: Scheduler):
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("nbdiff_requests", "Requests by how they ended", ["outcome"], registry=registry)
        self.prompt_tokens = Counter("nbdiff_prompt_tokens", "Tokens of prompts", registry=registry)
        self.cached_tokens = Counter(
            "nbdiff_cached_prompt_tokens", "Tokens of prompts that the prefix cache had", registry=registry
        )
        self.answer_tokens = Counter("nbdiff_answer_tokens", "Tokens of answers", registry=registry)
        self.first_token = Histogram(
            "nbdiff_time_to_first_token_seconds",
            "From a request to its first text",
            buckets=_SECONDS,
            registry=registry,
        )
        self.seconds = Histogram(
            "nbdiff_request_seconds", "From a request to its end", buckets=_SECONDS, registry=registry
        )
        for name, text, value in (
            ("nbdiff_requests_waiting", "Requests of which no answer has begun", lambda: scheduler.waiting),
            ("nbdiff_answers_running", "Answers that are decoded now", lambda: scheduler.running),
            ("nbdiff_cache_bytes", "Keys and values of the running answers", lambda: scheduler.held_bytes),
            ("nbdiff_prefix_cache_bytes", "Keys and values of ended answers", lambda: scheduler.prefix_bytes),
            ("nbdiff_forwards", "Forwards since the start", lambda: scheduler.forwards),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self._registry)
