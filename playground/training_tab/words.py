"""Sentences and figures about a job as text and HTML. Names and reasons are escaped."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.page_words import bytes_in_words, in_page_words, say
from playground.training_tab.asked import form_fields
from playground.training_tab.estimates import RunEstimate
from playground.training_tab.quantities import duration
from training.errors import TrainingError
from training.jobs import TrainingJob, states
from training.run.log_lines import StepFigures

# CSS classes of the badge by state of the job.
_TONES = {"running": "go", "starting": "go", "finished": "good", "failed": "bad", "lost": "bad", "stopping": "wait"}
_LABELS = {"--repo": "Repository", "quantization": "Precision of the base model", "optimisation.max_steps": "Steps"}
_INPUTS = {"base": "a base model", "data": "data", "max_steps": "a number of steps"}
_RECENT = 20  # log lines to measure the speed
_SETTING = re.compile(r"(?<![\w./-])[a-z]+(?:\.[a-z_]+)+")  # such as data.bad_rows


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure of a job. note: in small type beside the value."""

    title: str
    value: str
    note: str = ""

    def to_html(self) -> str:
        """The tile as HTML, escaped."""
        note = f"<small>{html.escape(self.note)}</small>" if self.note else ""
        return f'<div class="tile"><dt>{html.escape(self.title)}</dt><dd>{html.escape(self.value)}{note}</dd></div>'


def refused(error: Exception, uploads: Path | None = None) -> str:
    """An error of a form as HTML, with the fields of the form where a command line has options and a recipe has names.

    uploads: the folder of the uploads; a file in it is shown by its name.
    """
    labels = {field.name: field.label for field in form_fields()}
    words = in_page_words(error, {**_LABELS, **labels})
    if isinstance(error, TrainingError) and error.give:
        words = f"{error.message}; give {' and '.join(_INPUTS[each] for each in error.give)}."
    words = _SETTING.sub(lambda found: f"'{labels[found[0]]}'" if found[0] in labels else found[0], words)
    return say(words if uploads is None else uploads_by_name(words, uploads), error=True)


def uploads_by_name(words: str, uploads: Path) -> str:
    """The words, with each file in the folder of the uploads by its name: a visitor knows no path of the server."""
    return re.sub(rf"{re.escape(str(uploads))}/\w+/", "", words)


def choice(job: TrainingJob, uploads: Path) -> str:
    """The label of a job in the list."""
    step = f"{job.step:,} of {job.max_steps:,}" if job.max_steps else f"step {job.step:,}"
    has_reason = job.reason and job.state not in (states.FINISHED, states.RUNNING)
    reason = f" · {_cut(uploads_by_name(job.reason, uploads))}" if has_reason else ""
    return f"{job.name} · {job.state} · {step}{reason}"


def head(job: TrainingJob, metrics: Sequence[StepFigures], estimated: RunEstimate | None, uploads: Path) -> str:
    """State, progress and figures of a job as HTML. uploads: their folder."""
    tone = _TONES.get(job.state, "calm")
    share = min(1.0, job.step / job.max_steps) if job.max_steps else 0.0
    reason = f'<p class="reason">{html.escape(uploads_by_name(job.reason, uploads))}</p>' if job.reason else ""
    tiles = "".join(tile.to_html() for tile in _tiles(job, metrics, estimated))
    return (
        f'<div class="job-head"><h3>{html.escape(job.name)} '
        f'<span class="badge {tone}" data-state="{html.escape(job.state)}">{html.escape(job.state)}</span></h3>'
        f'<div class="bar" role="progressbar" aria-label="Steps done" aria-valuemin="0" '
        f'aria-valuemax="{job.max_steps or 0}" aria-valuenow="{job.step}">'
        f'<div class="{tone}" style="width:{100 * share:.1f}%"></div></div>{reason}<dl class="tiles">{tiles}</dl></div>'
    )


def _tiles(job: TrainingJob, metrics: Sequence[StepFigures], estimated: RunEstimate | None) -> list[Tile]:
    tiles = [Tile("Step", f"{job.step:,} of {job.max_steps:,}" if job.max_steps else f"{job.step:,}")]
    left = remaining(job, metrics)
    if left is not None:
        tiles.append(Tile("Time left", duration(left)))
    last = metrics[-1] if metrics else None
    if last:
        tiles += [
            Tile("Tokens/s", f"{speed(metrics):,.0f}", f"{last.tokens_seen or 0:,} tokens seen"),
            Tile("Block size", f"{last.block_size or 1}"),
            # With blocks of one token, no token is masked.
            Tile("MDM loss", f"{last.loss_mdm:.3f}" if last.loss_mdm else "-"),
            *([] if last.loss_ar is None else [Tile("AR loss", f"{last.loss_ar:.3f}")]),
        ]
    return tiles + _against_estimate(job, last, estimated)


def _against_estimate(job: TrainingJob, last: StepFigures | None, estimated: RunEstimate | None) -> list[Tile]:
    """Memory and time of a run, with the estimate and its error."""
    tiles = []
    memory_estimated = None if estimated is None else estimated.peak_memory
    if last and last.peak_memory:
        note = _error(memory_estimated, last.peak_memory, bytes_in_words)
        tiles.append(Tile("Memory", bytes_in_words(last.peak_memory), note))
    elif memory_estimated:
        tiles.append(Tile("Memory", f"~{bytes_in_words(memory_estimated)}", "estimated"))
    time_estimated = None if estimated is None else estimated.seconds
    if last and last.seconds:
        if job.max_steps and last.step == job.max_steps:
            note = _error(time_estimated, last.seconds, duration)
        else:
            note = f"at least {duration(time_estimated)}" if time_estimated else ""
        tiles.append(Tile("Time", duration(last.seconds), note))
    elif time_estimated:
        tiles.append(Tile("Time", f"at least {duration(time_estimated)}", "estimated"))
    return tiles


def _error(estimated: float | None, measured: float, in_words: Callable[[float], str]) -> str:
    if not estimated:
        return ""
    return f"estimated {in_words(estimated)}, {(estimated - measured) / measured:+.0%}"


def speed(metrics: Sequence[StepFigures]) -> float:
    """Clean tokens per second, the mean over the last log lines."""
    recent = [line.tokens_per_second for line in metrics[-_RECENT:] if line.tokens_per_second]
    return sum(recent) / len(recent) if recent else 0.0


def remaining(job: TrainingJob, metrics: Sequence[StepFigures]) -> float | None:
    """Seconds until the end at the current speed; None if it is unknown or the job is not running."""
    recent = [line for line in metrics[-_RECENT:] if line.seconds is not None]
    if job.state != states.RUNNING or len(recent) < 2 or not job.max_steps:
        return None
    first, last = recent[0], recent[-1]
    if last.step <= first.step:
        return None
    return (job.max_steps - last.step) * (last.seconds - first.seconds) / (last.step - first.step)


def _cut(text: str, limit: int = 60) -> str:
    line = text.split("\n", 1)[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"
