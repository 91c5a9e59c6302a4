"""JobSpec: wrong settings and recipes raise one sentence; hostile names and texts do no harm."""

from itertools import pairwise

import pytest

from tests.training.jobs.conftest import assert_uninterrupted, in_state, spec
from training.jobs import JobError, JobSpec, home
from training.recipe.recipe import Recipe
from training.recipe.recipe_fields import bundled_recipes

HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "a\nb: c",
    "../../etc",
    "-rf",
    "--output=/tmp/x",
    "a\x00b",
]
MEGABYTE = "x" * 1_000_000


def refused(**fields) -> str:
    with pytest.raises(JobError) as error:
        JobSpec.of(**fields)
    text = str(error.value)
    assert len(text) < 600
    assert "\n" not in text
    return text


def test_a_spec_resolves_to_its_recipe_with_the_changed_settings():
    found = JobSpec.of(
        recipe="smoke",
        settings={"optimisation.learning_rate": 1e-4, "lora": {"rank": 4}},
        base="nano-ar",
        data="corpus",
        max_steps=7,
    ).resolved()
    assert (found.optimisation.max_steps, found.optimisation.learning_rate, found.lora.rank) == (7, 1e-4, 4)
    as_text = JobSpec.of(recipe=bundled_recipes()["smoke"].read_text())
    assert as_text.resolved() == Recipe.read("smoke")
    assert JobSpec.of(recipe="nano-ar", kind="pretrain").resolved().kind == "pretrain"


def test_a_spec_is_immutable_and_can_be_read_back_from_json():
    found = spec(5, "about")
    with pytest.raises(ValueError, match="frozen"):
        found.recipe = "nano"
    assert JobSpec.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"recipe": "nosuch"}, "the bundled recipes are"),
        ({"recipe": "/etc/passwd"}, "contains no settings"),
        ({"recipe": "../recipes/smoke.yaml"}, "contains no settings"),
        ({"recipe": ""}, "contains no settings"),
        ({"recipe": MEGABYTE}, "1,000,000 characters"),
        ({"recipe": "a: &a [1]\nb: *a"}, "alias"),
        ({"recipe": "[" * 60_000}, "nested more than"),
        ({"recipe": "- " * 30_000}, "nested more than"),
        ({"recipe": "? " * 30_000}, "nested more than"),
        ({"recipe": "a: !!python/object/apply:os.system ['touch pwned']"}, "not YAML"),
        ({"recipe": "\x00"}, "not YAML"),
        ({"recipe": 5}, "recipe is 5"),
        ({}, "'recipe' is missing"),
        ({"recipe": "smoke", "nosuch": 1}, "'nosuch' is not known"),
        ({"recipe": "smoke", "kind": "pretrain"}, "is for adapt"),
        ({"recipe": "nano-ar"}, "is for pretrain"),
        ({"recipe": "nano-ar", "kind": "pretrain", "base": "nano-ar"}, "takes no base"),
        ({"recipe": "smoke", "kind": "rm"}, "kind"),
        ({"recipe": "smoke", "max_steps": 0}, "max_steps"),
        ({"recipe": "smoke", "max_steps": "5; rm"}, "max_steps"),
        ({"recipe": "smoke", "base": MEGABYTE}, "1,000,000 characters"),
        ({"recipe": "smoke", "data": MEGABYTE}, "1,000,000 characters"),
        ({"recipe": "smoke", "data": "a\nb"}, "one line"),
        ({"recipe": "smoke", "data": "  "}, "one line"),
        ({"recipe": "smoke", "settings": {"about": MEGABYTE}}, "characters"),
        ({"recipe": "smoke", "settings": {MEGABYTE: 1}}, "setting's name"),
        ({"recipe": "smoke", "settings": {"": 1}}, "setting's name"),
        ({"recipe": "smoke", "settings": {"..": 1}}, "setting's name"),
        ({"recipe": "smoke", "settings": {"optimisation..x": 1}}, "optimisation"),
        ({"recipe": "smoke", "settings": {"__class__": 1}}, "is not known"),
        ({"recipe": "smoke", "settings": {"optimisation.max_steps": "$(id)"}}, "max_steps"),
        ({"recipe": "smoke", "settings": {"optimisation.max_steps": object()}}, "not a number, a text"),
        ({"recipe": "smoke", "settings": {"seed.inner": 1}}, "no settings inside"),
        ({"recipe": "smoke", "settings": {"optimisation": None}}, "optimisation"),
        ({"recipe": "smoke", "settings": {"base": None}}, "no base checkpoint"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_spec_raises_one_sentence(fields, sentence):
    assert sentence in refused(**fields)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_refused_or_harmless(jobs, home, text):
    for field in ("base", "data"):
        try:
            found = JobSpec.of(recipe="smoke", **{field: text})
        except JobError:
            assert not text.isprintable()
        else:
            argv = jobs.command(found)
            assert argv[argv.index(f"--{field}") + 1] == text
    wanted = spec(1, text)
    job = in_state(jobs, jobs.submit(wanted, text), "finished")
    assert_uninterrupted(jobs, job)
    assert job.name.isprintable()
    assert job.folder.parent == home / "jobs"
    assert job.spec == wanted
    assert text not in " ".join(jobs.command(job.id))
    written = Recipe.read(str(job.folder / "recipe.yaml"))
    assert written.about == text
    assert not list(home.rglob("pwned"))


def test_a_name_that_is_too_long_is_refused(jobs, home):
    with pytest.raises(JobError, match="at most 200"):
        jobs.submit(spec(1), MEGABYTE)
    assert jobs.list() == []


def test_the_command_of_a_spec_resolves_to_the_same_recipe(jobs):
    from training.planning.planning_commands import resolved_recipe

    wanted = JobSpec.of(
        recipe="smoke",
        settings={"about": "a 'quoted': $(text) # 1", "lora": {"rank": 4}, "seed": 3, "objective.ar_weight": 1e-05},
        base="nano-ar",
        max_steps=9,
    )
    argv = jobs.command(wanted)
    assert argv[1:4] == ["-m", "training", "adapt"]
    options = dict(zip(argv[4:-1:2], argv[5::2], strict=False))
    sets = [value for option, value in pairwise(argv) if option == "--set"]
    found = resolved_recipe(options["--recipe"], sets, options["--base"], None, int(options["--max-steps"]))
    assert found == wanted.resolved()


def test_a_relative_path_is_stored_as_an_absolute_one(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text('{"text": "a"}\n')
    job = jobs.submit(JobSpec.of(recipe="smoke", data="mine.jsonl", max_steps=1))
    written = Recipe.read(str(job.folder / "recipe.yaml"))
    assert written.data.source == str((tmp_path / "mine.jsonl").resolve())
    assert written.base == "nano-ar"
    assert written.threads == 1  # OMP_NUM_THREADS of the tests
    in_state(jobs, job, "finished")
    prompts = JobSpec.of(recipe="lora", base="nano-ar", data="self", settings={"data.self_data.prompts": "mine.jsonl"})
    assert prompts.with_absolute_paths(1).data.self_data.prompts == str((tmp_path / "mine.jsonl").resolve())


def test_home_is_nbdiff_home_or_a_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("NBDIFF_HOME")
    assert home().name == "nbdiff"
