"""Compare 2 to 4 runs: one figure for each quantity with all runs, and a table of the settings that differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.training_tab import curves
from playground.training_tab.events import QUIET, Updates
from playground.training_tab.words import say
from training.jobs import Jobs, TrainingJob
from training.recipe.recipe import Recipe
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

    def build(self) -> None:
        """Lay out the list of runs, the figures, and the table."""
        with gr.Row(elem_classes="asking"):
            self.chosen = gr.Dropdown(
                [],
                multiselect=True,
                max_choices=MOST,
                allow_custom_value=True,  # a job may be deleted meanwhile; then `compared` shows an error
                label=f"Runs ({FEWEST} to {MOST})",
                min_width=280,
                scale=4,
                elem_id="compare-runs",
            )
            self.log_scale = gr.Checkbox(label="Logarithmic", min_width=120, scale=1, elem_id="compare-log-scale")
        self.said = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="compare-said")
        with gr.Column(visible=False, elem_id="compared") as self.shown:
            self.figures = []
            with gr.Row():
                for _, title, _ in _CURVES:
                    with gr.Column(min_width=320):
                        gr.Markdown(f"#### {title}")
                        self.figures.append(gr.Plot(show_label=False, container=False))
            # Datatype str: names from visitors are shown as text, not as markup.
            self.table = gr.Dataframe(
                headers=["Setting"],
                datatype="str",
                interactive=False,
                label="Settings that differ",
                wrap=True,
                buttons=[],
                elem_id="compare-table",
            )
        outputs = [self.said, self.shown, *self.figures, self.table]
        gr.on([self.chosen.input, self.log_scale.input], self.compared, [self.chosen, self.log_scale], outputs, **QUIET)

    def choices(self) -> Updates:
        """The list of the jobs that have started."""
        started = [job for job in self.jobs.list() if (job.run / "recipe.yaml").is_file()]
        listed = [(f"{job.name} · {job.state} · {job.step:,} steps", job.id) for job in started]
        return {self.chosen: gr.update(choices=listed)}

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
        }


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
