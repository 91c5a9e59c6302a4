"""A run of the Decode tab as code that repeats it elsewhere: in Python, with the engine or with a client of the server
that decodes, and with curl."""

import json
import pprint
import shlex

from playground.race.run_spec import LaneSpec, RunSpec
from playground.server.remote_models import RemoteModels

ADDRESS = "@ADDRESS@"  # the page puts its own address here: only the browser knows it
_WIDTH = 100


def as_python(spec: RunSpec) -> str:
    """The run with `nbdiff_engine`, lane after lane."""
    run = {"max_new_tokens": spec.max_new_tokens}
    run |= {name: True for name in ("raw", "ignore_eos") if getattr(spec, name)}
    lanes = [(lane.model, lane.settings()) for lane in spec.running]
    lines = [
        "import nbdiff_engine as nb",
        "",
        f"prompt = {_literal(_conversation(spec) or spec.prompt)}",
        f"lanes = {_literal(lanes)}",
        "for name, settings in lanes:",
        f"    out = nb.generate(nb.load(name), prompt, {_arguments(run)}, **settings)",
        "    print(settings, out.metrics.decode_forwards, out.text, sep='\\n', end='\\n\\n')",
    ]
    return "\n".join(lines) + "\n"


def as_client(models: RemoteModels, spec: RunSpec) -> str:
    """The run with the package openai and the server of `models`, lane after lane. The key is read from the
    environment. Raises SettingError for a model that the server does not have."""
    conversation = _conversation(spec)
    texts = [spec.raw or not models.get(lane.model).has_chat_template for lane in spec.running]
    own = {"ignore_eos": True} if spec.ignore_eos else {}
    lanes = [(lane.model, lane.settings() | own) for lane in spec.running]
    if conversation is None and any(texts):
        prompt, call, answer = spec.prompt, "client.completions.create(model=name, prompt=prompt", "text"
    else:
        prompt = conversation or [{"role": "user", "content": spec.prompt}]
        call, answer = "client.chat.completions.create(model=name, messages=prompt", "message.content"
    lines = [
        "import os",
        "",
        "from openai import OpenAI",
        "",
        f"client = OpenAI(base_url={models.server.url + '/v1'!r}, api_key=os.environ.get('NBDIFF_API_KEY', 'none'))",
        f"prompt = {_literal(prompt)}",
        f"lanes = {_literal(lanes)}",
        "for name, settings in lanes:",
        f"    out = {call}, max_tokens={spec.max_new_tokens}, extra_body=settings)",
        f"    print(settings, out.usage.completion_tokens, out.choices[0].{answer}, sep='\\n', end='\\n\\n')",
    ]
    return "\n".join(lines) + "\n"


def as_curl(spec: RunSpec) -> str:
    """The run with this server's endpoint "generate", lane after lane. Each call is two requests: begin, and wait."""
    called = f"{ADDRESS}/gradio_api/call/generate"
    lines = ["#!/bin/sh"]
    for lane in spec.running:
        body = shlex.quote(json.dumps({"data": _data(spec, lane)}, ensure_ascii=False))
        lines.append(
            f"id=$(curl -s {called} -H 'Content-Type: application/json' -d {body} | "
            """sed 's/.*"event_id": *"\\([^"]*\\)".*/\\1/')"""
        )
        lines.append(f'curl -sN "{called}/$id"')
    return "\n".join(lines) + "\n"


def _data(spec: RunSpec, lane: LaneSpec) -> list[object]:
    """The arguments of the endpoint, in its order."""
    settings = {name: value for name, value in lane.settings().items() if name != "strategy"}
    conversation = _conversation(spec)
    prompt, messages = (spec.prompt, None) if conversation is None else ("", conversation)
    return [prompt, lane.model, lane.strategy, spec.max_new_tokens, spec.raw, spec.ignore_eos, settings, messages]


def _conversation(spec: RunSpec) -> list[dict[str, str]] | None:
    """The earlier turns of the chat with the prompt; None if there are none that a lane reads."""
    if spec.raw or not spec.history:
        return None
    return [turn.model_dump() for turn in spec.history] + [{"role": "user", "content": spec.prompt}]


def _literal(value: object) -> str:
    return pprint.pformat(value, width=_WIDTH, sort_dicts=False)


def _arguments(settings: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())
