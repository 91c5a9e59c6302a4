"""All runs in a table that can be searched; 2 to 4 of them beside each other: their curves and what differs."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.event_options import QUIET, Updates
from playground.page_words import say
from playground.training_tab import curves
from playground.training_tab.run_table import HEADERS, RunTable
from training.jobs import Jobs, TrainingJob
from training.recipe.recipe import Recipe
from training.run.log_lines import HeldOutEvaluation
from training.run.run_folder import flat

FEWEST, MOST = 2, 4
_CURVES = (
    ("loss_mdm", "MDM loss", "Nats per token"),
    ("loss_ar", "AR loss", "Nats per token"),
    ("block_size", "Block size", "Block size (tokens)"),
)


class Compare:
    """The comparison of runs. `build` lays it out in the Blocks being built."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self.run_table = RunTable(jobs)

    def build(self) -> None:
        """Lay out the table of runs, the figures, and the settings that differ."""
        # The search of gr.Dataframe has no label for screen readers.
        self.search = gr.Textbox(
            label="Search runs", placeholder="name, recipe, base, state, notes", max_lines=1, elem_id="compare-search"
        )
        # Datatype str: names from visitors are shown as text, not as markup.
        self.runs = gr.Dataframe(
            headers=list(HEADERS),
            datatype="str",
            interactive=False,
            label="Runs: click one to compare it",
            column_widths=[150, 170, 100, 120, 120, 80, 110, 100, 150, 150, 190, 110, 280, 110],
            max_height=340,
            buttons=[],
            elem_id="compare-table-of-runs",
        )
        with gr.Row(elem_classes="asking"):
            self.chosen = gr.Dropdown(
                [],
                multiselect=True,
                max_choices=MOST,
                allow_custom_value=True,  # a job may be deleted meanwhile; then `compared` shows an error
                label=f"Compared runs ({FEWEST} to {MOST})",
                min_width=280,
                scale=4,
                elem_id="compare-runs",
            )
            self.log_scale = gr.Checkbox(label="Logarithmic", min_width=120, scale=1, elem_id="compare-log-scale")
        self.said = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="compare-said")
        with gr.Column(visible=False, elem_id="compared") as self.shown:
            self.figures, self.held_out = [], []
            with gr.Row():
                for _, title, _ in _CURVES:
                    with gr.Column(min_width=320):
                        gr.Markdown(f"#### {title}")
                        self.figures.append(gr.Plot(show_label=False, container=False))
                for title, _, _ in _HELD_OUT:
                    with gr.Column(min_width=320):
                        gr.Markdown(f"#### {title}")
                        self.held_out.append(gr.Plot(show_label=False, container=False))
            self.table = gr.Dataframe(
                headers=["Setting"],
                datatype="str",
                interactive=False,
                label="Settings that differ",
                wrap=True,
                buttons=[],
                elem_id="compare-table",
            )
        outputs = [self.said, self.shown, *self.figures, *self.held_out, self.table]
        inputs = [self.chosen, self.log_scale]
        gr.on([self.chosen.input, self.log_scale.input], self.compared, inputs, outputs, **QUIET)
        self.search.change(self.refreshed, self.search, self.lists, trigger_mode="always_last", **QUIET)
        self.runs.select(self.added, self.chosen, self.chosen, **QUIET).then(self.compared, inputs, outputs, **QUIET)

    @property
    def lists(self) -> list[Any]:
        """The components that `refreshed` changes."""
        return [self.runs, self.chosen]

    def refreshed(self, search: Any = "") -> Updates:
        """The jobs that have started, as choices and as a table. search: words that a row of the table must contain."""
        started = [job for job in self.jobs.list() if (job.run / "recipe.yaml").is_file()]
        listed = [(label, job.id) for label, job in zip(labels(started), started, strict=True)]
        wanted = search.lower().split() if isinstance(search, str) else []
        found = [row for row in self.run_table.rows(started) if all(word in " ".join(row).lower() for word in wanted)]
        # Gradio leaves the old rows in the table if there is none.
        none = ["No run has these words.", *[""] * (len(HEADERS) - 1)]
        rows = {"headers": list(HEADERS), "data": found or [none]}
        return {self.chosen: gr.update(choices=listed), self.runs: gr.update(value=rows, visible=bool(started))}

    def added(self, chosen: Any, event: gr.SelectData) -> Any:
        """Compare a run of the table too; a second click leaves it out again."""
        row = event.row_value
        so_far = list(chosen) if isinstance(chosen, list) else []
        if not isinstance(row, list) or not row or not row[-1]:
            return gr.skip()
        if row[-1] in so_far:
            return [each for each in so_far if each != row[-1]]
        return [*so_far, row[-1]][-MOST:]

    def compared(self, chosen: Any, log_scale: Any) -> Updates:
        """The figures and the table of the chosen runs."""
        hidden = {self.shown: gr.update(visible=False)}
        names = chosen if isinstance(chosen, list) else []
        if len(names) < FEWEST:
            return {self.said: say(f"Choose at least {FEWEST} runs." if names else ""), **hidden}
        try:
            jobs = [self.jobs.get(str(name)) for name in names[:MOST]]
            runs = dict(zip(labels(jobs), jobs))
            metrics = {label: self.jobs.metrics(job.id) for label, job in runs.items()}
            evaluations = {label: self.jobs.evaluations(job.id) for label, job in runs.items()}
            settings = {label: settings_of(job) for label, job in runs.items()}
        except NBDiffError as error:
            return {self.said: say(str(error), error=True), **hidden}
        rows = differing(settings)
        return {
            self.said: say("" if rows else "These runs have the same settings."),
            self.shown: gr.update(visible=True),
            self.table: gr.update(value={"headers": ["Setting", *settings], "data": rows}, visible=bool(rows)),
            **{
                figure: curves.overlaid(metrics, key, title, bool(log_scale) and key != "block_size")
                for figure, (key, _, title) in zip(self.figures, _CURVES)
            },
            **{
                figure: curves.overlaid_points({name: points(lines) for name, lines in evaluations.items()}, title)
                for figure, (_, title, points) in zip(self.held_out, _HELD_OUT)
            },
        }


def held_out_points(evaluations: Sequence[HeldOutEvaluation]) -> list[tuple[int, float]]:
    """(step, held-out loss at the largest block size); for blocks of one token, the AR loss."""
    found = []
    for line in evaluations:
        if not line.losses:
            continue
        size = max(line.losses)
        loss = line.losses[size].loss_ar if size == 1 else line.losses[size].loss_mdm
        if loss is not None:
            found.append((line.step, loss))
    return found


def accepted_points(evaluations: Sequence[HeldOutEvaluation]) -> list[tuple[int, float]]:
    """(step, drafts in a row that are right): of a draft adapter, or else of self-speculation."""
    found = [
        (line.step, line.accepted_drafts if line.acceptance is None else line.acceptance.accepted_run)
        for line in evaluations
    ]
    return [(step, run) for step, run in found if run is not None]


# title, title of the axis, points of a run
_HELD_OUT = (
    ("Held-out loss, at the last block size", "Nats per token", held_out_points),
    ("Accepted run", "Right drafts in a row", accepted_points),
)


def labels(jobs: Sequence[TrainingJob]) -> list[str]:
    """Names of jobs; with the start of the id if two jobs have the same name."""
    names = [job.name for job in jobs]
    return [f"{job.name} ({job.id[:8]})" if names.count(job.name) > 1 else job.name for job in jobs]


def settings_of(job: TrainingJob) -> dict[str, Any]:
    """All settings of a run by dotted name, from recipe.yaml in its folder."""
    recipe = Recipe.read(str(job.run / "recipe.yaml"))
    return flat(recipe.model_dump(mode="json"))


def differing(settings: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A row (setting, value in each run) for each setting that is not the same in all runs."""
    keys = list(dict.fromkeys(key for each in settings.values() for key in each))
    rows = []
    for key in keys:
        values = ["-" if each.get(key) is None else str(each[key]) for each in settings.values()]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return rows
