"""The results of a sweep in words: its progress, the table of the settings, the answers, and how much they can show."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.evaluation.table import or_dash
from playground.page_words import counted
from playground.race.run_spec import LaneSpec
from playground.server.worker import Frame, Reply
from playground.sweep.sweep import SweepSetting
from playground.sweep.sweep_frames import At, SweepAnswer
from playground.sweep.sweep_rows import TableRow

MANY = 100  # problems from which on no warning is shown
_PROMPT_CHARS = 300
HEADERS = [
    "Block size",
    "Tokens per forward",
    "Tokens/s",
    "Speed-up",
    "Same text as AR",
    "Accuracy",
    "Mean length",
    "Answers",
]
_BAR = (
    '<div role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}" '
    'style="height:6px;margin-bottom:6px;border-radius:3px;overflow:hidden;background:var(--border-color-primary)">'
    '<div style="height:100%;width:{percent:.1f}%;background:var(--color-accent)"></div></div>'
)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The sweep that a page shows. total: the number of answers at the end; names, lanes: of the settings, in their
    order, as words and for the Decode tab; prompts: of the problems."""

    run: str
    viewer: str
    total: int
    note: str
    names: tuple[str, ...]
    lanes: tuple[LaneSpec, ...] = ()
    prompts: tuple[str | list[dict[str, str]], ...] = ()
    max_new_tokens: int = 96


def name_of(setting: SweepSetting) -> str:
    """A setting in words."""
    size = f"block size {setting.label}"
    return f"{setting.series}, {size}" if setting.series else size


def lane_of(setting: SweepSetting) -> LaneSpec:
    """The lane of the Decode tab that decodes as a setting does."""
    asked = setting.decode_settings.model_dump(mode="json", exclude_unset=True)
    known = {name: value for name, value in asked.items() if name in LaneSpec.model_fields}
    return LaneSpec(**{**known, "model": setting.model.name, "strategy": setting.strategy})


def progress_html(reply: Reply, log: Sequence[Frame], under_way: UnderWay) -> str:
    """The progress of a sweep, as a bar and a sentence."""
    done = sum(isinstance(frame, SweepAnswer) for frame in log)
    total, note = under_way.total, under_way.note
    if reply.state == "queued":
        return status_line(f"Queued: {counted(reply.ahead, 'run')} before this one.", 0, total, note)
    if reply.state == "running":
        words = f"{done} of {total} answers"
        if log:
            newest = log[-1]
            warming = isinstance(newest, At) and newest.warm_up
            words = f"Warming up: {words}" if warming else f"{words}; now {under_way.names[newest.setting]}"
        return status_line(words, done, total, note)
    if reply.state == "finished":
        return status_line(f"Done: {counted(total, 'answer')}.", total, total, note)
    message = f"{reply.message} {done} of {total} answers are in the table." if done else reply.message
    return status_line(message, done, total, note, error=reply.state == "failed")


def status_line(words: str, done: int = 0, total: int = 0, note: str = "", error: bool = False) -> str:
    """The status line under the buttons, as HTML; its text is escaped."""
    bar = _BAR.format(done=done, total=total, percent=100 * done / total) if total else ""
    colour = "color:var(--error-text-color, #b91c1c);" if error else ""
    note = f'<p style="margin:4px 0 0;opacity:.8">{html.escape(note)}</p>' if note else ""
    words = f'<p style="margin:0">{html.escape(words)}</p>'
    role = "alert" if error else "status"
    return f'<div role="{role}" style="font-size:14px;{colour}">{bar}{words}{note}</div>'


def table_html(rows: Sequence[TableRow]) -> str:
    """The table for the page as HTML, escaped. On a phone each row becomes a card, with the header before each cell."""
    headers, cells = columns_of(rows)
    head = "".join(f'<th scope="col">{html.escape(each)}</th>' for each in headers)
    lines = (
        "".join(
            f'<td data-header="{html.escape(header)}">{html.escape(cell)}</td>'
            for header, cell in zip(headers, line, strict=True)
        )
        for line in cells
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table class="figures-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def columns_of(rows: Sequence[TableRow]) -> tuple[list[str], list[list[str]]]:
    """The headers and the cells of the table. It has a column with the series if there are several."""
    lines = {each.series for each in rows if each.strategy != "ar"}
    several = len(lines) > 1 or len({each.model for each in rows}) > 1
    cells = []
    for each in rows:
        figures = [
            or_dash(each.tpf, ".2f"),
            or_dash(each.tokens_per_second, ".0f"),
            or_dash(each.speed, ".2f"),
            or_dash(each.same_as_ar, ".0%"),
            _accuracy(each),
            or_dash(each.mean_tokens, ".1f"),
            str(each.n),
        ]
        cells.append([each.setting, *([each.series] if several else []), *figures])
    return [HEADERS[0], *(["Series"] if several else []), *HEADERS[1:]], cells


def _accuracy(row: TableRow) -> str:
    """The share of right answers with its interval."""
    if row.accuracy is None:
        return "-"
    return f"{row.accuracy:.0%} ({100 * row.accuracy_low:.0f} to {100 * row.accuracy_high:.0f})"


def how_little(rows: Sequence[TableRow]) -> str:
    """A sentence about what so few answers can show; "" if there are many, or none were checked."""
    judged = [row for row in rows if row.accuracy is not None]
    if not judged or judged[0].n >= MANY:
        return ""
    row = judged[0]
    right = round(row.accuracy * row.n)
    width = max(each.accuracy_high - each.accuracy_low for each in judged)
    return (
        f"{counted(row.n, 'problem')} say little: {right} of {row.n} right means an accuracy between "
        f"{row.accuracy_low:.0%} and {row.accuracy_high:.0%} (95 % interval). Two settings that differ by less than "
        f"about {100 * width / 2:.0f} points cannot be distinguished; take {MANY} problems or more."
    )


def text_of(prompt: str | list[dict[str, str]]) -> str:
    """A prompt as text; the turns of a conversation on separate lines."""
    return prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)


def answers_of(frames: Iterable[Frame], prompts: Sequence[Any], setting: int | None = None) -> list[dict[str, Any]]:
    """The answers of a sweep, of one setting or of all, as sweep_answers.js shows them."""
    return [
        {
            "name": f"Block size {', '.join(part for part in (each.label, each.series) if part)}",
            "prompt": text_of(prompts[each.problem])[:_PROMPT_CHARS] if each.problem < len(prompts) else "",
            "text": each.output,
            "checked": {None: "", True: "right", False: "wrong"}[each.correct],
            "tpf": each.metrics.tokens_per_forward,
            "setting": each.setting,
            "problem": each.problem,
        }
        for each in frames
        if isinstance(each, SweepAnswer) and setting in (None, each.setting)
    ]
