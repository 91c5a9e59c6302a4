"""`python -m training jobs`: manage the jobs of the page from a terminal.

python -m training jobs submit --recipe smoke
python -m training jobs list
python -m training jobs logs 3f --follow
"""

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from training.planning.planning_commands import BaseOption, DataOption, JsonOption, RecipeOption, SetOption, StepsOption

if TYPE_CHECKING:
    from training.jobs import Jobs, TrainingJob

cli = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help="Queue, watch and stop runs."
)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id, or a prefix that no other job has.")]
_POLL = 0.5  # seconds


@cli.command()
def submit(
    recipe: RecipeOption = None,
    base: BaseOption = None,
    data: DataOption = None,
    max_steps: StepsOption = None,
    overrides: SetOption = None,
    name: Annotated[str, typer.Option("--name", help="Name of the job. Default: the recipe's name.")] = "",
    kind: Annotated[str, typer.Option("--kind", help="adapt or pretrain.")] = "adapt",
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="URL", help="Run it on the Ray cluster with this job server, as http://head:8265."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the run, on a Ray cluster.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Queue a job; print its id."""
    from training.jobs import JobError, Jobs, JobSpec
    from training.jobs.cluster_file import RayCluster
    from training.jobs.job_spec import settings_of

    spec = JobSpec.of(
        recipe=_recipe(recipe),
        settings=settings_of(overrides or []),
        base=base,
        data=data,
        max_steps=max_steps,
        kind=kind,
    )
    if ray is None and workers > 1:
        raise JobError(
            "A job on this machine has one worker; give --ray URL, or start several processes with torchrun."
        )
    job = Jobs().submit(spec, name, None if ray is None else RayCluster(ray, workers))
    print(json.dumps(job.to_json(), ensure_ascii=False) if as_json else job.id)


@cli.command("list")
def list_jobs(as_json: JsonOption = False) -> None:
    """List the jobs, newest first."""
    found = _jobs().list()
    if as_json:
        print(json.dumps([job.to_json() for job in found], ensure_ascii=False))
        return
    for job in found:
        print(_line(job))


@cli.command()
def show(id: IdArgument, as_json: JsonOption = False) -> None:
    """Show one job."""
    jobs = _jobs()
    job = _find(jobs, id)
    if as_json:
        print(json.dumps(job.to_json(), ensure_ascii=False))
        return
    print(_line(job))
    for key in ("backend", "pid", "folder", "created", "started", "finished", "queue_place"):
        value = getattr(job, key)
        if value is not None:
            print(f"{key.replace('_', ' '):12}{value}")
    for state, when, reason in jobs.transitions(job.id):
        print(f"{when}  {state:9} {reason}".rstrip())


@cli.command()
def logs(
    id: IdArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log until the job ends.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Number of last lines to print.")] = 40,
) -> None:
    """Print the log of a job's trainer."""
    from training.jobs import states
    from training.jobs.places import log_of

    jobs = _jobs()
    job = _find(jobs, id)
    tail = jobs.log_tail(job.id, lines)
    if tail:
        print(tail, flush=True)
    if not follow:
        return
    log = log_of(job.folder)
    place = log.stat().st_size if log.exists() else 0
    while True:
        ended = jobs.get(job.id).state in states.ENDED  # before reading, so that its last output is still printed
        if log.exists():
            with log.open("rb") as file:
                file.seek(place)
                new = file.read()
            place += len(new)
            sys.stdout.write(new.decode("utf-8", "replace").replace("\r", "\n"))
            sys.stdout.flush()
        if ended:
            return
        time.sleep(_POLL)


@cli.command()
def stop(id: IdArgument) -> None:
    """Stop a job after it saves; cancel a queued job."""
    jobs = _jobs()
    print(_line(jobs.stop(_find(jobs, id).id)))


@cli.command()
def resume(id: IdArgument) -> None:
    """Queue a stopped, failed or lost job again; it continues from its last checkpoint."""
    jobs = _jobs()
    print(_line(jobs.resume(_find(jobs, id).id)))


@cli.command()
def save(id: IdArgument) -> None:
    """Make a running job save a checkpoint now."""
    jobs = _jobs()
    jobs.save_now(_find(jobs, id).id)


@cli.command()
def delete(id: IdArgument) -> None:
    """Delete a job that is not running, and its folder."""
    jobs = _jobs()
    jobs.delete(_find(jobs, id).id)


@cli.command()
def move(id: IdArgument, place: Annotated[int, typer.Argument(min=1, help="1 starts next.")]) -> None:
    """Move a queued job to another place in the queue."""
    jobs = _jobs()
    print(_line(jobs.move(_find(jobs, id).id, place)))


@cli.command()
def wait(
    id: IdArgument,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds; exit code 124 after a timeout.")] = None,
) -> None:
    """Wait until a job ends. Exit code 0 if it finished, otherwise 1."""
    from training.jobs import states

    jobs = _jobs()
    job = _find(jobs, id)
    deadline = None if timeout is None else time.monotonic() + timeout
    while job.state not in states.ENDED:
        if deadline is not None and time.monotonic() >= deadline:
            print(f"error: The job {job.id} is still {job.state} after {timeout:g} s.", file=sys.stderr)
            raise typer.Exit(124)
        time.sleep(_POLL)
        job = jobs.get(job.id)
    print(_line(job))
    if job.state != states.FINISHED:
        raise typer.Exit(1)


def _jobs() -> "Jobs":
    from training.jobs import Jobs

    return Jobs()


def _find(jobs: "Jobs", prefix: str) -> "TrainingJob":
    """The only job whose id begins with `prefix`. Raises JobError if there is none, or more than one."""
    from nbdiff_engine.errors import brief
    from training.jobs import JobError

    found = [job for job in jobs.list() if prefix and job.id.startswith(prefix)]
    if len(found) > 1:
        raise JobError(f"{len(found)} jobs begin with {brief(prefix)}; give more of the id.")
    if not found:
        raise JobError(f"There is no job {brief(prefix)}; python -m training jobs list shows all jobs.")
    return found[0]


def _recipe(given: str | None) -> str:
    """A bundled name, or the text of a file. Raises RecipeError if it is neither."""
    from pathlib import Path

    from nbdiff_engine.errors import brief
    from training.errors import RecipeError
    from training.recipe.recipe_fields import bundled_recipes

    if given is None:
        raise RecipeError("Give a --recipe: a bundled name (python -m training recipes lists them) or a YAML file.")
    if given in bundled_recipes():
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        known = ", ".join(bundled_recipes())
        raise RecipeError(
            f"There is no recipe {brief(given)}: not a bundled name ({known}) and not a readable file."
        ) from error


def _line(job: "TrainingJob") -> str:
    steps = f"{job.step}/{job.max_steps}" if job.max_steps else str(job.step)
    place = f" ({job.queue_place} in the queue)" if job.queue_place else ""
    return f"{job.id}  {job.state:9} {steps:>12}  {job.name}{place}{f': {job.reason}' if job.reason else ''}"
