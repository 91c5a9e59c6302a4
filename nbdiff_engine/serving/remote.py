"""A client of `serve`: the events of an answer that a server decodes, as `stream` gives them of a model in memory.

>>> server = RemoteServer("http://127.0.0.1:8000")
>>> model = server.models()[0]
>>> for event in server.prepare(model, "What is the capital of Peru?", block_size=8).events(): print(event)
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

from nbdiff_engine.decoding.prompts import Prompt, require_words
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import NBDiffError, PromptError, ServerError, SettingError, brief
from nbdiff_engine.serving.serve_command import is_loopback
from nbdiff_engine.serving.served_model import ServedModel
from nbdiff_engine.token_choice.unmasking import POLICIES, UnmaskingPolicy
from nbdiff_engine.trace.events import DecodeEvent, Finish
from nbdiff_engine.trace.trace_file import READABLE, Trace, unpack

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 60.0  # between two events; an answer may wait for others at the server
_OTHER_SHAPE = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # what JSON of another shape raises


@dataclass(frozen=True, slots=True)
class RemotePlan:
    """The settings of an answer with the server's defaults filled in, and remarks about them."""

    settings: DecodeSettings
    policy: UnmaskingPolicy | None
    notes: tuple[str, ...]


class RemoteJob:
    """One prompt that a server has checked. It has the parts of a DecodeJob that a reader of events needs; what it
    knows of tokens and text is what the events so far have brought."""

    def __init__(self, server: "RemoteServer", route: str, body: dict[str, Any], model: ServedModel, head: Any):
        self.model = model
        self._server, self._route, self._body = server, route, body
        settings = DecodeSettings.of(**head["settings"])
        policy = None if settings.unmasking is None else POLICIES[settings.unmasking]
        self.plan = RemotePlan(settings, policy, tuple(map(str, head["notes"])))
        empty = Trace.from_json({**head, "model": model.name, "pieces": {}, "events": []}, whole=False)
        self._head = empty
        self._forget()

    def _forget(self) -> None:
        self._pieces: dict[int, str] = {}
        self._bytes: dict[int, bytes] = {}
        self._answer_pieces: list[str] = []
        self._text: list[str] = []

    def events(self) -> Iterator[DecodeEvent]:
        """Let the server decode; yields the events as they arrive. Closing the iterator ends the connection, and the
        server stops within one forward. Raises ServerError."""
        self._forget()
        event = None
        for chunk in self._server.chunks(self._route, self._body):
            with self._server.understood():
                event = self._read(chunk)
            if event is not None:
                yield event
        if not isinstance(event, Finish):
            raise ServerError(f"{self._server} has ended in the middle of an answer.")

    def _read(self, chunk: Mapping[str, Any]) -> DecodeEvent | None:
        part, choice = chunk["nbdiff"], chunk["choices"][0]
        if "event" not in part:
            return None
        text = choice["text"] if "text" in choice else choice["delta"].get("content")
        self._text.append(text or "")
        self._pieces |= {int(token): str(text) for token, text in part["pieces"].items()}
        self._bytes |= {int(token): bytes.fromhex(each) for token, each in part.get("bytes", {}).items()}
        self._answer_pieces = [str(text) for text in part.get("answer_pieces", ())]
        return unpack(part["event"], part.get("candidates", ()))

    def trace(self, row: int, events: Sequence[DecodeEvent]) -> Trace:
        """The trace of these events, of which the stream has brought the texts. row: 0, the only one."""
        return replace(
            self._head,
            events=tuple(events),
            pieces=dict(self._pieces),
            partial_bytes=dict(self._bytes),
            answer_pieces=tuple(self._answer_pieces),
        )

    def pieces_of(self, tokens: Iterable[int]) -> dict[int, str]:
        """The text of each token where a word precedes it; of a special token, its name."""
        return {token: self._pieces[token] for token in tokens if token in self._pieces}

    def partial_bytes_of(self, tokens: Iterable[int]) -> dict[int, bytes]:
        """The bytes of those tokens that begin or end within a character."""
        return {token: self._bytes[token] for token in tokens if token in self._bytes}

    def answer_pieces(self, token_ids: Sequence[int]) -> list[str]:
        """The text that each token of the finished answer adds."""
        return list(self._answer_pieces)

    def live_text(self) -> Callable[[DecodeEvent], str]:
        """Called with each event, gives the text that has arrived since the call before."""
        shown = 0

        def arrived(event: DecodeEvent) -> str:
            nonlocal shown
            text = self.text_of(())
            new, shown = text[shown:], len(text)
            return new

        return arrived

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of the answer so far."""
        return "".join(self._text)


class RemoteServer:
    """A running `serve`. Thread-safe. Opens no connection before its first call."""

    def __init__(self, url: str, api_key: str | None = None):
        """url: such as http://127.0.0.1:8000, with or without /v1. Raises SettingError for what is no address."""
        url = url.strip().rstrip("/").removesuffix("/v1")
        try:
            parts = urlsplit(url)
            host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
        except ValueError:
            host = None
        if not host:
            raise SettingError(f"The server is {brief(url)}; give its address, such as http://127.0.0.1:8000.")
        self.url = url
        self._client = httpx.Client(
            base_url=url,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not is_loopback(host),  # a proxy of the environment does not reach this machine
        )

    def __str__(self) -> str:
        return f"The server at {self.url}"

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def models(self) -> list[ServedModel]:
        """The models of the server that this version can read. Raises ServerError."""
        cards = self._json("GET", "/v1/models")
        with self.understood():
            models = [ServedModel.of_card(card) for card in cards["data"]]
            unread = next((each.trace_version for each in models if each.trace_version not in READABLE), None)
            if unread is not None or not models:
                raise ValueError(f"events of version {unread}" if models else "no model")
            return models

    def prepare(self, model: ServedModel, prompt: Prompt, *, raw: bool = False, **settings: Any) -> RemoteJob:
        """Let the server check a request. prompt, raw, settings: as for `nbdiff_engine.prepare`.

        The server reads the whole prompt, whatever it knows of it, so that times can be compared. Raises SettingError,
        PromptError or ServerError.
        """
        body: dict[str, Any] = {"model": model.name, "stream": True, "stream_mode": "denoise", "prefix_cache": False}
        route = "/v1/completions"
        if isinstance(prompt, str):
            require_words(prompt)
        if isinstance(prompt, str) and (raw or not model.has_chat_template):
            body["prompt"] = prompt
        elif isinstance(prompt, str):
            route, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": prompt}]
        elif raw or not all(isinstance(turn, Mapping) for turn in prompt):
            body["prompt"] = prompt
        else:
            route, body["messages"] = "/v1/chat/completions", prompt
        limit = settings.pop("max_new_tokens", None)
        # A server draws a seed for a request without one; lanes that are compared need the same.
        body |= {"seed": DecodeSettings().seed} | settings | ({} if limit is None else {"max_tokens": limit})
        found = self._json("POST", f"{route}/check", body)
        with self.understood():
            return RemoteJob(self, route, body, model, found["data"][0])

    def chunks(self, route: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a stream, to its end. Raises ServerError, also for an error that the stream brings."""
        with self._reached(), self._client.stream("POST", route, **_content(body)) as response:
            if response.status_code != 200:
                response.read()
                raise self._refusal(response)
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return
                if not line.startswith("data: "):
                    continue
                with self.understood():
                    chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise ServerError(f"{self}: {_message(chunk)}")
                yield chunk

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Turn what is raised by JSON of another shape into one ServerError; a SettingError of this engine too: the
        server has settings that it does not know."""
        try:
            yield
        except ServerError:
            raise
        except _OTHER_SHAPE as error:
            raise ServerError(
                f"{self} is no `nbdiff serve` of this version; use the same version of this project for both."
            ) from error

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ServerError(f"{self} does not answer; start it with `nbdiff serve`, or check the address.") from error
        except httpx.ConnectTimeout as error:
            raise ServerError(f"{self} was not reached in {CONNECT_SECONDS:g} s; check the address.") from error
        except httpx.TimeoutException as error:
            raise ServerError(f"{self} has sent nothing for {SILENT_SECONDS:g} s; try again later.") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(f"{self} has ended the connection; see its log.") from error

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        with self._reached():
            response = self._client.request(method, path, **({} if body is None else _content(body)))
        if response.status_code != 200:
            raise self._refusal(response)
        with self.understood():
            return response.json()

    def _refusal(self, response: httpx.Response) -> NBDiffError:
        """The exception for an error of the server."""
        if response.status_code == 401:
            return ServerError(f"{self} needs its API key; give it with --api-key, or in NBDIFF_API_KEY.")
        if response.status_code >= 500 and "json" not in response.headers.get("content-type", ""):
            return ServerError(f"{self} answers with status {response.status_code}; see its log.")
        with self.understood():
            content = response.json()
            sentence, code = _message(content), content["error"]["code"]
            if (parts := content.get("nbdiff")) is not None:
                return SettingError.of(tuple(parts["field"]), str(parts["value"]), str(parts["rule"]))
        if response.status_code == 400:
            return PromptError(sentence) if code == "invalid_prompt" else SettingError(sentence)
        return ServerError(f"{self}: {sentence}")


def _content(body: dict[str, Any]) -> dict[str, Any]:
    """A body as JSON of ASCII: what is no text, or no number, arrives as it is, and the server says so."""
    return {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}


def _message(content: dict[str, Any]) -> str:
    return str(content["error"]["message"])
