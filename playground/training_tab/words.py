"""What the tab says of a job, in words and in the little HTML around them. Names and reasons are escaped."""

import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]

LIVE = ("queued", "starting", "running", "stopping")
# Badge colours by kind, with words in them that stay readable on light and on dark pages.
_TONES = {"running": "go", "starting": "go", "finished": "good", "failed": "bad", "lost": "bad", "stopping": "wait"}
_RECENT = 20  # steps that speed is taken from
ALMOST = 1.0  # seconds below which nothing is worth a figure


def say(words: str, error: bool = False) -> str:
    """A sentence beside the buttons; read out by screen readers."""
    if not words:
        return ""
    role = "alert" if error else "status"
    return f'<p class="said{" error" if error else ""}" role="{role}">{html.escape(words)}</p>'


def choice(job: Any) -> str:
    """A job as a line of the list."""
    step = f"{job.step or 0:,} of {job.max_steps:,}" if job.max_steps else f"step {job.step or 0:,}"
    reason = f" · {_cut(job.reason)}" if job.reason and job.state not in ("finished", "running") else ""
    return f"{job.name} · {job.state} · {step}{reason}"


def head(job: Any, metrics: Sequence[Line], estimated: Mapping[str, Any] | None) -> str:
    """State, progress and figures of a job."""
    tone = _TONES.get(job.state, "calm")
    share = min(1.0, (job.step or 0) / job.max_steps) if job.max_steps else 0.0
    reason = f'<p class="reason">{html.escape(str(job.reason))}</p>' if job.reason else ""
    tiles = "".join(
        f'<div class="tile"><dt>{html.escape(name)}</dt><dd>{html.escape(value)}'
        + (f"<small>{html.escape(note)}</small>" if note else "")
        + "</dd></div>"
        for name, value, note in _tiles(job, metrics, estimated)
    )
    return (
        f'<div class="job-head"><h3>{html.escape(job.name)} '
        f'<span class="badge {tone}" data-state="{html.escape(job.state)}">{html.escape(job.state)}</span></h3>'
        f'<div class="bar" role="progressbar" aria-label="Steps done" aria-valuemin="0" '
        f'aria-valuemax="{job.max_steps or 0}" aria-valuenow="{job.step or 0}">'
        f'<div class="{tone}" style="width:{100 * share:.1f}%"></div></div>{reason}<dl class="tiles">{tiles}</dl></div>'
    )


def _tiles(job: Any, metrics: Sequence[Line], estimated: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Title, value and note of each figure."""
    last = metrics[-1] if metrics else {}
    tiles = [("Step", f"{job.step or 0:,} of {job.max_steps:,}" if job.max_steps else f"{job.step or 0:,}", "")]
    left = remaining(job, metrics)
    if left is not None:
        tiles.append(("Time left", duration(left), ""))
    if last:
        tiles.append(("Tokens/s", f"{speed(metrics):,.0f}", f"{last.get('tokens_seen', 0):,} tokens read"))
        tiles.append(("Block size", f"{last.get('block_size', 1)}", ""))
        # Blocks of one token have nothing masked.
        mdm = last.get("loss_mdm")
        tiles.append(("Loss, masked", f"{mdm:.3f}" if mdm else "-", ""))
        tiles.append(("Loss, next", f"{last.get('loss_ar', 0):.3f}", ""))
    tiles += _against_estimate(job, metrics, estimated or {})
    return tiles


def _against_estimate(job: Any, metrics: Sequence[Line], estimated: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What a run takes, and beside it what it was said to take and how far that was off."""
    last = metrics[-1] if metrics else {}
    tiles = []
    peak, foretold = last.get("peak_memory"), estimated.get("peak_memory")
    if peak:
        tiles.append(("Memory", memory(peak), _said(foretold, peak, memory)))
    elif foretold:
        tiles.append(("Memory", f"~{memory(foretold)}", "estimated"))
    taken, foretold = last.get("seconds"), estimated.get("seconds")
    whole = job.max_steps and last.get("step") == job.max_steps
    if taken:
        note = _said(foretold, taken, duration) if whole else f"{duration(foretold)} at least" if foretold else ""
        tiles.append(("Time", duration(taken), note))
    elif foretold:
        tiles.append(("Time", f"{duration(foretold)} at least", "estimated"))
    return tiles


def _said(foretold: float | None, measured: float, words: Any) -> str:
    if not foretold:
        return ""
    return f"estimated {words(foretold)}, {(foretold - measured) / measured:+.0%}"


def speed(metrics: Sequence[Line]) -> float:
    """Clean tokens a second over the last steps."""
    recent = [line["tokens_per_second"] for line in metrics[-_RECENT:] if line.get("tokens_per_second")]
    return sum(recent) / len(recent) if recent else 0.0


def remaining(job: Any, metrics: Sequence[Line]) -> float | None:
    """Seconds that the run still takes at its present speed; None while that is not known, or it does not run."""
    recent = metrics[-_RECENT:]
    if job.state != "running" or len(recent) < 2 or not job.max_steps:
        return None
    steps = recent[-1]["step"] - recent[0]["step"]
    if steps <= 0:
        return None
    return (job.max_steps - recent[-1]["step"]) * (recent[-1]["seconds"] - recent[0]["seconds"]) / steps


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "-"
    if seconds < ALMOST:
        return "under 1 s"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:,.1f} days"


def memory(size: float) -> str:
    """Bytes as a person says them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def ago(moment: float | None) -> str:
    """How long ago a time was."""
    return "" if moment is None else f"{duration(max(0.0, time.time() - moment))} ago"


def _cut(text: str, limit: int = 60) -> str:
    line = str(text).split("\n", 1)[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"
