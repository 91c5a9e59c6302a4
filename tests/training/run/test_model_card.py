"""The model card of a run, from its recipe and the last lines of its logs."""

from tests.training.runs import small_base, small_data, small_recipe
from training.model.base import load_base, with_spec
from training.recipe.recipe import Recipe
from training.run.log_lines import HeldOutEvaluation, HeldOutLosses, StepFigures
from training.run.model_card import DataFacts, adapter_card, hub_id_of, model_card
from training.run.run_progress import Progress


def test_the_card_has_the_settings_and_the_losses_of_the_run(tmp_path):
    base = small_base(tmp_path / "base")
    recipe = small_recipe(base, small_data(tmp_path / "data.jsonl"))
    model = with_spec(load_base(str(base), device="cpu"), 8, "token_causal", True)
    last = StepFigures(6, 2.51234, 2.0, 1.0)
    evaluation = HeldOutEvaluation(6, {1: HeldOutLosses(None, 1.5), 8: HeldOutLosses(2.25, 1.5)})
    progress = Progress(step=6, tokens_seen=1024, seconds=90.0)
    card = model_card("mine", recipe, model, progress, last, evaluation)
    for line in (
        "# mine",
        "| base | base |",
        'model = nb.load("mine")  # this folder, or its hub id',
        "| weights | of step 6: the last of the run |",
        "| steps | 6 |",
        "| tokens read | 1,024 |",
        "| time of training | 1.5 min |",
        "| block sizes | 1 from step 0, 2 from step 1, 4 from step 2, 8 from step 4 |",
        "| last loss | 2.5123 (MDM 2.0000, AR 1.0000) |",
        "| 1 |  | 1.5000 |",
        "| 8 | 2.2500 | 1.5000 |",
    ):
        assert line in card.splitlines()


def test_the_purpose_of_a_recipe_is_in_the_card_but_not_that_of_a_bundled_one(tmp_path):
    base = small_base(tmp_path / "base")
    recipe = small_recipe(base, small_data(tmp_path / "data.jsonl"))
    model = load_base(str(base), device="cpu")
    for about, there in (("It answers in rhymes.", True), (Recipe.read("lora").about, False)):
        card = model_card("mine", recipe.model_copy(update={"about": about}), model, Progress(), None, None)
        assert (about in card) == there


def test_a_packaged_base_has_its_hub_id(tmp_path):
    recipe = small_recipe("smollm2", small_data(tmp_path / "data.jsonl"))
    assert hub_id_of(recipe) == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_run_without_logs_has_a_card_without_figures(tmp_path):
    base = small_base(tmp_path / "base")
    recipe = small_recipe(base, small_data(tmp_path / "data.jsonl"))
    card = model_card("mine", recipe, load_base(str(base), device="cpu"), Progress(), None, None)
    assert "An autoregressive language model" in card
    assert "last loss" not in card
    assert "Held-out losses" not in card


def test_a_card_of_hub_sources_names_them_with_their_licences(tmp_path):
    base = small_base(tmp_path / "base")
    model = with_spec(load_base(str(base), device="cpu"), 8, "token_causal", True)
    recipe = small_recipe(base, small_data(tmp_path / "data.jsonl"), lora={"rank": 4})
    recipe = recipe.model_copy(update={"base": "owner/base"})
    data = DataFacts("owner/data (main)", "owner/data", documents=1000, held_out=64, licence="mit")
    card = model_card("mine", recipe, model, Progress(step=3), None, None, data, "apache-2.0", "best", early=True)
    for line in (
        "base_model: owner/base",
        "license: apache-2.0",
        "- owner/data",
        "| base | owner/base (licence apache-2.0) |",
        "| data | owner/data (main): 1,000 documents, 64 more held out, licence mit |",
        "| weights | of step 3: the lowest held-out loss of the run, which ended before step 6, as its loss fell no "
        "more |",
        "| LoRA | rank 4, alpha 32, merged into these weights |",
        "  source: owner/data",
    ):
        assert line in card.splitlines()
    assert "AutoModelForCausalLM.from_pretrained('owner/base')" in adapter_card(recipe, model)
