"""The model card of a run: model, data, training and held-out losses, from the recipe and the run's logs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub import ModelCardData

from nbdiff_engine.model.checkpoint_folders import bundled_models
from nbdiff_engine.model.hub_checkpoints import HUB_ID
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from training.data.dataset import ENDLESS
from training.model.base import TrainedModel
from training.recipe.recipe import Recipe
from training.recipe.recipe_fields import bundled_recipes
from training.run import draft_card
from training.run.log_lines import HeldOutEvaluation, StepFigures
from training.run.run_progress import Progress


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The data of a run. hub_id: None for files, the corpus and self-written documents."""

    name: str
    hub_id: str | None
    documents: int  # to train on
    held_out: int
    licence: str | None


def hub_id_of(recipe: Recipe) -> str | None:
    """The hub id of the base; None for a bundled checkpoint or a folder."""
    base = recipe.base
    if base in PACKAGED_MODELS:
        return PACKAGED_MODELS[base].hub_id
    return None if base is None or base in bundled_models() or Path(base).expanduser().exists() else base


def data_hub_id_of(recipe: Recipe) -> str | None:
    """The hub id of the data; None for files, the corpus and self-written documents."""
    source = recipe.data.source
    return source if HUB_ID.fullmatch(source) and not Path(source).expanduser().exists() else None


def model_card(
    name: str,
    recipe: Recipe,
    model: TrainedModel,
    progress: Progress,
    last: StepFigures | None,
    evaluation: HeldOutEvaluation | None,
    data: DataFacts | None = None,
    base_licence: str | None = None,
    choice: Literal["last", "best"] = "last",
    early: bool = False,
) -> str:
    """Markdown with the YAML metadata of the hub.

    name: of the trained model. progress, last, evaluation: of the step whose weights are saved. choice: whether that is
    the run's last step or its best. early: whether the run ended before its last step.
    """
    if recipe.drafts:
        what, use = draft_card.what(recipe, _base(recipe), _trained(model)), draft_card.use(_base(recipe))
        found = draft_card.acceptance(evaluation, progress.step)
    else:
        what, use = _what(recipe, model), _use(name, recipe, model)
        found = _losses(evaluation, progress.step)
    parts = [
        _metadata(recipe, data, base_licence),
        f"# {name}",
        what,
        use,
        _training(recipe, progress, last, data, base_licence, choice, early),
        found,
        _settings(recipe, data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def adapter_card(recipe: Recipe, model: TrainedModel) -> str:
    """The README of adapter/: how to load the adapters."""
    base, rows = _base(recipe), model.network.get_input_embeddings().weight.shape[0]
    return "\n".join(
        [
            "---",
            "library_name: peft",
            *([f"base_model: {hub_id_of(recipe)}"] if hub_id_of(recipe) else []),
            "---",
            "",
            f"LoRA adapters for {base}, with the embedding of MASK (id {model.spec.mask_token_id}). The folder "
            '`final/` beside this one has them merged, and `nbdiff_engine.load("adapter")` merges them into the base. '
            "Without `nbdiff_engine` the adapted model decodes as an AR model:",
            "",
            "```python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            "",
            f"base = AutoModelForCausalLM.from_pretrained({base!r})"
            + ("" if hub_id_of(recipe) else "  # the folder of the base"),
            f"base.resize_token_embeddings({rows}, mean_resizing=False)  # room for MASK",
            'model = PeftModel.from_pretrained(base, "adapter")',
            "```",
            "",
        ]
    )


def draft_adapter_card(recipe: Recipe, model: TrainedModel, step: int) -> str:
    """The README of an exported checkpoint of a draft adapter."""
    base = _base(recipe)
    parts = [
        _metadata(recipe, None, None),
        f"# Draft adapter after step {step} of {recipe.optimisation.max_steps}",
        draft_card.what(recipe, base, _trained(model)),
        draft_card.use(base, folder="."),
    ]
    return "\n\n".join(parts) + "\n"


def _base(recipe: Recipe) -> str:
    """The name of the base without the folders of this machine."""
    if recipe.base is None:
        return "a new network"
    return hub_id_of(recipe) or Path(recipe.base).name


def _trained(model: TrainedModel) -> int:
    """The number of trained parameters."""
    return sum(each.numel() for each in model.network.parameters() if each.requires_grad)


def _metadata(recipe: Recipe, data: DataFacts | None, base_licence: str | None) -> str:
    fields = {"library_name": "peft" if recipe.drafts else "transformers", "pipeline_tag": "text-generation"}
    if base := hub_id_of(recipe):
        fields |= {"base_model": base, "base_model_relation": "adapter" if recipe.drafts else "finetune"}
    if base_licence:
        fields["license"] = base_licence
    if data is not None and data.hub_id:
        fields["datasets"] = [data.hub_id]
    return f"---\n{ModelCardData(**fields).to_yaml()}\n---"


def _what(recipe: Recipe, model: TrainedModel) -> str:
    parameters = sum(each.numel() for each in model.network.parameters())
    kind = "A block-diffusion language model" if model.spec else "An autoregressive language model"
    made = f"adapted from {_base(recipe)}" if recipe.kind == "adapt" else "trained from scratch"
    # A bundled recipe's sentence helps to choose the recipe; that of one's own recipe describes the model.
    bundled = {Recipe.read(name).about for name in bundled_recipes()}
    about = "" if recipe.about in bundled else recipe.about
    text = f"{kind} of {parameters / 1e6:.1f} million parameters, {made}. {about}".rstrip()
    if model.spec:
        text += (
            f"\n\nBlocks of {model.spec.block_size} tokens, MASK id {model.spec.mask_token_id}, {model.spec.context} "
            "context. The weights are a stock transformers model's, and its AR decoding still works."
        )
    return text


def _use(name: str, recipe: Recipe, model: TrainedModel) -> str:
    strategy = ', strategy="block_diffusion"' if model.spec else ""
    return "\n".join(
        [
            "## Use",
            "",
            "```python",
            "import nbdiff_engine as nb",
            "",
            f'model = nb.load("{name}")  # this folder, or its hub id',
            f'print(nb.generate(model, "What is a block?"{strategy}, max_new_tokens=128).text)',
            "```",
        ]
    )


def _training(
    recipe: Recipe,
    progress: Progress,
    last: StepFigures | None,
    data: DataFacts | None,
    base_licence: str | None,
    choice: str,
    early: bool,
) -> str:
    steps = recipe.optimisation
    rows = ["## Training", "", "| | |", "|---|---|"]
    if recipe.base is not None:
        rows.append(f"| base | {_base(recipe)}{f' (licence {base_licence})' if base_licence else ''} |")
    if data is None:
        rows.append(f"| data | {recipe.data.source} |")
    else:
        counted = "generated without an end" if data.documents >= ENDLESS else f"{data.documents:,} documents"
        licence = f", licence {data.licence}" if data.licence else ""
        rows.append(f"| data | {data.name}: {counted}, {data.held_out:,} more held out{licence} |")
    best = "the longest accepted run" if recipe.drafts else "the lowest held-out loss of the run"
    which = best if choice == "best" else "the last of the run"
    no_more = "its accepted run grew" if recipe.drafts else "its loss fell"
    ended = f", which ended before step {steps.max_steps}, as {no_more} no more" if early else ""
    rows += [
        f"| steps | {progress.step} |",
        f"| weights | of step {progress.step}: {which}{ended} |",
    ]
    if data is not None and data.documents < ENDLESS:
        rows.append(f"| epochs | {progress.cursor.document / data.documents:.2f} |")
    rows += [
        f"| tokens read | {progress.tokens_seen:,} |",
        f"| time of training | {progress.seconds / 60:.1f} min |",
        f"| peak learning rate | {steps.learning_rate:g} ({steps.optimizer}) |",
        f"| seed | {recipe.seed} |",
    ]
    if recipe.kind == "adapt":
        phases = recipe.blocks.over(steps.max_steps).phases(steps.max_steps)
        rows.append("| block sizes | " + ", ".join(f"{size} from step {first}" for first, _, size in phases) + " |")
        if recipe.drafts:
            named = (("CE", recipe.draft.ce), ("KL", recipe.draft.kl), ("TV", recipe.draft.tv))
            weights = ", ".join(f"{name} {weight:g}" for name, weight in named if weight)
            rows.append(f"| weights of the losses | {weights} |")
        else:
            rows.append(f"| lambda | {recipe.objective.ar_weight:g} |")
    if recipe.lora is not None:
        merged = "" if recipe.drafts else ", merged into these weights"
        rows.append(f"| LoRA | rank {recipe.lora.rank}, alpha {recipe.lora.alpha:g}{merged} |")
    if last is not None:
        named = (("MDM", last.loss_mdm), ("AR", last.loss_ar), ("KL", last.loss_kl), ("TV", last.loss_tv))
        parts = ", ".join(f"{name} {value:.4f}" for name, value in named if value is not None)
        rows.append(f"| last loss | {last.loss:.4f} ({parts}) |")
    return "\n".join(rows)


def _losses(evaluation: HeldOutEvaluation | None, step: int) -> str:
    if evaluation is None:
        return ""
    rows = ["## Held-out losses", "", f"Nats per token, after step {step}.", ""]
    rows += ["| block size | masked tokens | next tokens |", "|--:|--:|--:|"]
    for size, losses in evaluation.losses.items():
        cells = ["" if each is None else f"{each:.4f}" for each in (losses.loss_mdm, losses.loss_ar)]
        rows.append(f"| {size} | {cells[0]} | {cells[1]} |")
    if evaluation.accepted_drafts is not None:
        rows += ["", f"Self-speculation accepts {evaluation.accepted_drafts:.2f} drafts per verify pass."]
    return "\n".join(rows)


def _settings(recipe: Recipe, data: DataFacts | None) -> str:
    """The settings that differ from the defaults, without folders of this machine."""
    fields = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"about"})
    if recipe.base is not None:
        fields["base"] = _base(recipe)
    if data is not None:
        fields["data"] = {**fields["data"], "source": data.hub_id or data.name}
    if recipe.data.self_data.prompts is not None:
        fields["data"]["self_data"]["prompts"] = Path(recipe.data.self_data.prompts).name
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=110)
    return f"## Settings\n\nAll others are the defaults.\n\n```yaml\n{text}```"
