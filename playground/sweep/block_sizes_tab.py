"""The Block sizes tab: decodes a prompt or held-out problems with several settings; a table, figures and a CSV file."""

import dataclasses
import html
import secrets
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from nbdiff_engine.tasks import DOMAINS
from nbdiff_engine.token_choice.unmasking import POLICIES as UNMASKING_POLICIES
from playground.options import ServerOptions
from playground.page_words import in_page_words
from playground.server.loaded_models import LoadedModels
from playground.server.tables import STRATEGY_NAMES
from playground.server.worker import RELOAD_SECONDS, Frame, QueueFullError, Reply, Worker
from playground.sweep.sweep import (
    BLOCK_SIZES,
    POLICY_CHOICES,
    SELF_SPECULATION,
    SweepSetting,
    SweepSpec,
    TableRow,
    check_sweep,
    table,
    to_csv,
)
from playground.sweep.sweep_figures import accuracy_against_tpf, agreement_against_block_size, speed_against_block_size
from playground.sweep.sweep_frames import At, SweepAnswer

POLL_SECONDS = 0.6
MOST_FILES = 32  # CSV files that are kept for download
PROMPT_SOURCE = "My prompt"
ALONE, THRESHOLDS, POLICIES, MODELS = "Block size only", "Thresholds", "Policies", "Models"
POLICY_LABELS = [
    (STRATEGY_NAMES[name] if name == SELF_SPECULATION else UNMASKING_POLICIES[name].label, name)
    for name in POLICY_CHOICES
]
PRIVATE = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}

_INTRO = (
    "**Block size 1 is AR**: the same weights, one token per forward. Larger blocks decode more tokens per forward, "
    "but a block that is too large makes the text worse. AR always runs; it is the baseline."
)
_HEADERS = [
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
_KEEP = "(run) => { try { localStorage.setItem('nbdiff.sweep', run); } catch {} }"
_RECALL = "() => { try { return [localStorage.getItem('nbdiff.sweep') ?? '']; } catch { return ['']; } }"
_LEGEND = (
    "Speed-up: tokens/s divided by those of AR. Same text as AR: share of answers with the same tokens as AR. "
    "Accuracy: share of correct answers. Mean length: tokens per answer."
)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The sweep that a page shows. total: the number of answers at the end; names: of the settings, in their order."""

    run: str
    viewer: str
    total: int
    note: str
    names: tuple[str, ...]


class BlockSizesTab:
    """The tab's handlers around the worker and the loaded models. `build` lays it out in the Blocks being built."""

    def __init__(self, loaded: LoadedModels, worker: Worker, options: ServerOptions):
        self.loaded = loaded
        self.worker = worker
        self.options = options
        self._kept: OrderedDict[str, tuple[UnderWay, list[Frame]]] = OrderedDict()  # the last sweeps, by their runs
        self._folder = tempfile.TemporaryDirectory(prefix="nbdiff-sweeps-")  # deleted when the server stops

    # -- layout ------------------------------------------------------------------------------------------

    def build(self, blocks: gr.Blocks) -> None:
        """Lay out the tab in `blocks`."""
        names = list(self.loaded.names())
        sources = [PROMPT_SOURCE, *(f"Held-out {domain}" for domain in DOMAINS)]
        gr.Markdown(_INTRO, elem_id="sweep-intro")
        with gr.Row():
            self.model = gr.Dropdown(names, value=names[0] if names else None, label="Model", min_width=180)
            self.source = gr.Dropdown(sources, value=sources[1], label="Prompts", min_width=180)
            most = self.options.max_problems
            self.problems = gr.Slider(1, most, value=min(8, most), step=1, label="Problems", min_width=220)
            most = self.options.max_new_tokens
            self.limit = gr.Number(
                min(96, most), minimum=1, maximum=most, precision=0, label="Max new tokens", min_width=120
            )
        self.prompt = gr.Textbox(label="Prompt", lines=2, max_lines=8, visible=False, placeholder="Write a prompt.")
        choices = [("1 = AR" if size == 1 else str(size), size) for size in BLOCK_SIZES]
        self.sizes = gr.CheckboxGroup(choices, value=self._sizes(names[0] if names else None), label="Block sizes")
        self.vary = gr.Radio([ALONE, THRESHOLDS, POLICIES, MODELS], value=ALONE, label="Compare")
        self.thresholds = gr.CheckboxGroup(
            [(f"{each:g}", each) for each in (0.5, 0.7, 0.8, 0.9, 0.95)],
            value=[0.7, 0.9],
            label="Confidence thresholds, one series each",
            visible=False,
        )
        self.policies = gr.CheckboxGroup(
            POLICY_LABELS, value=["confidence", SELF_SPECULATION], label="Policies, one series each", visible=False
        )
        self.models = gr.Dropdown(
            names, value=names[:2], multiselect=True, label="Models, one series each", visible=False, min_width=200
        )
        with gr.Row():
            self.run_button = gr.Button("Run", variant="primary", min_width=110, elem_id="sweep-run")
            self.stop_button = gr.Button("Stop", variant="stop", interactive=False, min_width=110, elem_id="sweep-stop")
        self._build_results()
        self._wire(blocks)

    def _build_results(self) -> None:
        self.status = gr.HTML(_line("No results yet."), js_on_load=None, apply_default_css=False, elem_id="sweep-said")
        # Datatype str shows the texts, some of them from a model, as plain text, not as markup.
        self.table = gr.Dataframe(
            headers=_HEADERS,
            datatype="str",
            interactive=False,
            label="Figures",
            elem_id="sweep-table",
            visible=False,
            wrap=True,
            max_height=1200,
            buttons=[],
        )
        self.legend = gr.Markdown(_LEGEND, elem_id="sweep-legend", visible=False)
        self.answers = gr.Dataframe(
            headers=["Block size", "Answer"],
            datatype="str",
            interactive=False,
            label="Answers",
            elem_id="sweep-outputs",
            visible=False,
            wrap=True,
            column_widths=["30%", "70%"],
            buttons=[],
        )
        with gr.Row(visible=False) as self.plots:
            self.speed = gr.Plot(label="Speed", min_width=320)
            self.agreement = gr.Plot(label="Agreement with AR", min_width=320)
            self.accuracy = gr.Plot(label="Accuracy against tokens per forward", min_width=320)
        self.download = gr.DownloadButton("Download as CSV", interactive=False, size="sm", elem_id="sweep-csv")
        self.timer = gr.Timer(POLL_SECONDS, active=False)
        self.under_way = gr.State(None)  # an UnderWay after the first Run
        self.shown_run = gr.Textbox(visible=False)  # its run, which the browser remembers

    def _wire(self, blocks: gr.Blocks) -> None:
        question = [self.model, self.source, self.problems, self.limit, self.prompt, self.sizes]
        form = [*question, self.vary, self.thresholds, self.policies, self.models]
        progress = [self.status, self.table, self.legend, self.answers, self.stop_button, self.timer]
        results = [self.plots, self.speed, self.agreement, self.accuracy, self.download]
        self.run_button.click(
            self.start,
            [self.under_way, *form],
            [self.under_way, self.status, self.stop_button, self.timer, self.shown_run],
            **PRIVATE,
        ).then(None, self.shown_run, None, js=_KEEP, api_visibility="private")
        blocks.load(self.resume, self.shown_run, [self.under_way, self.timer], js=_RECALL, **PRIVATE)
        self.stop_button.click(self.stop, self.under_way, None, **PRIVATE)
        self.timer.tick(self.tick, self.under_way, [*progress, *results], **PRIVATE)
        by_source = {self.prompt: True, self.problems: False}
        self.source.change(
            lambda chosen: {
                each: gr.update(visible=own == (chosen == PROMPT_SOURCE)) for each, own in by_source.items()
            },
            self.source,
            list(by_source),
            **PRIVATE,
        )
        by_series = {self.thresholds: THRESHOLDS, self.policies: POLICIES, self.models: MODELS}
        self.vary.change(
            lambda chosen: {each: gr.update(visible=chosen == name) for each, name in by_series.items()},
            self.vary,
            list(by_series),
            **PRIVATE,
        )
        self.model.input(self._sizes, self.model, self.sizes, **PRIVATE)
        # Another tab may have loaded or unloaded models: the lists are updated when the page is opened.
        self.lists = [self.model, self.models]
        blocks.load(self.refreshed, self.lists, self.lists, **PRIVATE)

    def refreshed(self, model: Any, models: Any) -> dict[Any, Any]:
        """`lists` with the models that are loaded now."""
        names = list(self.loaded.names())
        kept = [name for name in models or () if name in names]
        one = model if model in names else next(iter(names), None)
        return {self.model: gr.update(choices=names, value=one), self.models: gr.update(choices=names, value=kept)}

    def _sizes(self, name: str | None) -> list[int]:
        """The block sizes up to that of the training of a model."""
        try:
            spec = self.loaded.get(name).spec if name is not None else None
        except NBDiffError:
            spec = None
        return [size for size in BLOCK_SIZES if size <= (1 if spec is None else spec.block_size)]

    # -- requests of visitors ----------------------------------------------------------------------------

    def start(self, before: UnderWay | None, *form: Any) -> dict[Any, Any]:
        """Put a sweep into the queue. After an error, which is shown in one sentence, a running sweep continues."""
        try:
            checked = check_sweep(self.loaded, _spec(*form), self.options)
            run_id = self.worker.submit(checked.parts)
        except (NBDiffError, QueueFullError) as error:
            return {self.status: _line(in_page_words(error), error=True)}
        if before is not None:
            self.worker.stop(before.run)
        names = tuple(map(_name_of, checked.settings))
        under_way = UnderWay(run_id, secrets.token_hex(8), checked.total, checked.note, names)
        self._keep(under_way, [])
        return {
            self.under_way: under_way,
            self.shown_run: run_id,
            self.status: _line("Queued.", 0, checked.total, checked.note),
            self.stop_button: gr.update(interactive=True),
            self.timer: gr.Timer(active=True),
        }

    def resume(self, run: Any) -> dict[Any, Any]:
        """A page was loaded again: show its sweep, which may be in progress. run: as the browser has stored it."""
        if not isinstance(run, str) or run not in self._kept:
            return {self.under_way: None}
        under_way = dataclasses.replace(self._kept[run][0], viewer=secrets.token_hex(8))
        return {self.under_way: under_way, self.timer: gr.Timer(active=True)}

    def _keep(self, under_way: UnderWay, log: list[Frame]) -> None:
        self._kept[under_way.run] = (under_way, log)
        while len(self._kept) > MOST_FILES:
            self._kept.popitem(last=False)

    def stop(self, under_way: UnderWay | None) -> None:
        """Stop the sweep that is shown."""
        if under_way is not None:
            self.worker.stop(under_way.run)

    def tick(self, under_way: UnderWay | None) -> dict[Any, Any]:
        """The results so far; at the end also the figures and the CSV file."""
        if under_way is None:
            return {self.timer: gr.Timer(active=False)}
        reply = self.worker.poll(under_way.run, under_way.viewer, 0)
        self.worker.hold(under_way.run, under_way.viewer, RELOAD_SECONDS)
        log = [each.frame for each in self.worker.log(under_way.run)]
        if reply.state == "unknown" and under_way.run in self._kept:  # it ended long ago
            log = self._kept[under_way.run][1]
            reply = dataclasses.replace(reply, state="stopped", message="An earlier sweep.")
        rows = table(log)
        over = reply.state not in ("queued", "running")
        if over:
            self._keep(under_way, log)
        own = bool(rows) and rows[0].output is not None
        answers = [[_setting_of(each), each.output] for each in rows] if own else []
        update = {
            self.status: progress_html(reply, log, under_way),
            self.table: gr.update(value=table_value(rows), visible=bool(rows)),
            self.legend: gr.update(visible=bool(rows)),
            self.answers: gr.update(value=answers, visible=own),
            self.stop_button: gr.update(interactive=not over),
            self.timer: gr.Timer(active=not over),
        }
        return {**update, **self._results(rows)} if over and rows else update

    def _results(self, rows: Sequence[TableRow]) -> dict[Any, Any]:
        """The figures and the CSV file of a sweep that has ended."""
        judged = any(each.accuracy is not None for each in rows)
        return {
            self.plots: gr.update(visible=True),
            self.speed: speed_against_block_size(rows),
            self.agreement: agreement_against_block_size(rows),
            self.accuracy: gr.update(value=accuracy_against_tpf(rows) if judged else None, visible=judged),
            self.download: gr.update(value=self._file(rows), interactive=True),
        }

    def _file(self, rows: Sequence[TableRow]) -> str:
        """Write the table to a new temporary file; returns its path."""
        folder = Path(self._folder.name)
        for old in sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime)[: -MOST_FILES + 1]:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        place = Path(tempfile.mkdtemp(dir=folder)) / "block-sizes.csv"
        place.write_text(to_csv(rows), encoding="utf-8")
        return str(place)


def _spec(
    model: Any,
    source: Any,
    problems: Any,
    limit: Any,
    prompt: Any,
    sizes: Any,
    vary: Any,
    thresholds: Any,
    policies: Any,
    models: Any,
) -> SweepSpec:
    own = source == PROMPT_SOURCE
    return SweepSpec.of(
        models=models if vary == MODELS else [model] if model else [],
        block_sizes=sizes,
        thresholds=thresholds if vary == THRESHOLDS else (),
        policies=policies if vary == POLICIES else (),
        prompt=prompt or "",
        domain=None if own else str(source).removeprefix("Held-out "),
        problems=problems,
        max_new_tokens=limit,
    )


def _name_of(setting: SweepSetting) -> str:
    size = f"block size {setting.label}"
    return f"{setting.series}, {size}" if setting.series else size


def progress_html(reply: Reply, log: Sequence[Frame], under_way: UnderWay) -> str:
    done = sum(isinstance(frame, SweepAnswer) for frame in log)
    total, note = under_way.total, under_way.note
    if reply.state == "queued":
        return _line(f"Queued: {reply.ahead} runs before this one.", 0, total, note)
    if reply.state == "running":
        words = f"{done} of {total} answers"
        if log:
            newest = log[-1]
            warming = isinstance(newest, At) and newest.warm_up
            words = f"Warming up: {words}" if warming else f"{words}; now {under_way.names[newest.setting]}"
        return _line(words, done, total, note)
    if reply.state == "finished":
        return _line(f"Done: {total} answer{'' if total == 1 else 's'}.", total, total, note)
    message = f"{reply.message} {done} of {total} answers are in the table." if done else reply.message
    return _line(message, done, total, note, error=reply.state == "failed")


def _line(words: str, done: int = 0, total: int = 0, note: str = "", error: bool = False) -> str:
    """The status line under the buttons, as HTML; its text is escaped."""
    bar = _BAR.format(done=done, total=total, percent=100 * done / total) if total else ""
    colour = "color:var(--error-text-color, #b91c1c);" if error else ""
    note = f'<p style="margin:4px 0 0;opacity:.8">{html.escape(note)}</p>' if note else ""
    words = f'<p style="margin:0">{html.escape(words)}</p>'
    role = "alert" if error else "status"
    return f'<div role="{role}" style="font-size:14px;{colour}">{bar}{words}{note}</div>'


def table_value(rows: Sequence[TableRow]) -> dict[str, Any]:
    """The table for the page. It has a column with the series if there are several."""
    lines = {each.series for each in rows if each.strategy != "ar"}
    several = len(lines) > 1 or len({each.model for each in rows}) > 1
    cells = []
    for each in rows:
        figures = [
            _or_dash(each.tpf, ".2f"),
            _or_dash(each.tokens_per_second, ".0f"),
            _or_dash(each.speed, ".2f"),
            _or_dash(each.same_as_ar, ".0%"),
            _or_dash(each.accuracy, ".0%"),
            _or_dash(each.mean_tokens, ".1f"),
            str(each.n),
        ]
        cells.append([each.setting, *([each.series] if several else []), *figures])
    return {"headers": [_HEADERS[0], *(["Series"] if several else []), *_HEADERS[1:]], "data": cells}


def _setting_of(row: TableRow) -> str:
    return ", ".join(part for part in (row.setting, row.series) if part)


def _or_dash(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
