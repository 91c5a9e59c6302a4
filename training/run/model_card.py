"""The model card of a run: model, data, training time and held-out losses, from the recipe and the run's logs."""

from pathlib import Path

from training.model.base import TrainedModel
from training.recipe.recipe import Recipe
from training.run.log_lines import Evaluation, StepFigures
from training.run.run_progress import Progress


def model_card(
    name: str,
    recipe: Recipe,
    model: TrainedModel,
    progress: Progress,
    last: StepFigures | None,
    evaluation: Evaluation | None,
) -> str:
    """Markdown with the YAML metadata of the hub. name: of the trained model. last, evaluation: the last of the run."""
    base = Path(recipe.base).name if recipe.base and Path(recipe.base).exists() else recipe.base
    parameters = sum(each.numel() for each in model.network.parameters())
    what = "A block-diffusion language model" if model.spec else "An autoregressive language model"
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if base:
        lines.append(f"base_model: {base}")
    lines += ["---", "", f"# {name}", ""]
    made = f"adapted from {base}" if recipe.kind == "adapt" else "trained from scratch"
    lines += [f"{what} of {parameters / 1e6:.1f} million parameters, {made}. {recipe.about}".rstrip(), ""]
    if model.spec:
        lines += [
            f"Blocks of {model.spec.block_size} tokens, MASK id {model.spec.mask_token_id}, "
            f"{model.spec.context} context. Decode it with `nbdiff_engine.load`; the weights are a stock transformers "
            "model's, and its AR decoding still works.",
            "",
        ]
    lines += [
        "## Training",
        "",
        "| | |",
        "|---|---|",
        f"| data | {recipe.data.source} |",
        f"| steps | {progress.step} |",
        f"| tokens read | {progress.tokens_seen:,} |",
        f"| time of training | {progress.seconds / 60:.1f} min |",
        f"| peak learning rate | {recipe.optimisation.learning_rate:g} ({recipe.optimisation.optimizer}) |",
        f"| seed | {recipe.seed} |",
    ]
    if recipe.kind == "adapt":
        stages = recipe.blocks.over(recipe.optimisation.max_steps).stages
        lines.append("| block sizes | " + ", ".join(f"{size} from step {first}" for first, size in stages) + " |")
        lines.append(f"| lambda | {recipe.objective.ar_weight:g} |")
    if last is not None:
        lines.append(f"| last loss | {last.loss:.4f} (MDM {last.loss_mdm:.4f}, AR {last.loss_ar:.4f}) |")
    if evaluation is not None:
        lines += ["", "## Held-out losses", "", "Nats per token, after the last step.", ""]
        lines += ["| block size | masked tokens | next tokens |", "|--:|--:|--:|"]
        for size, losses in evaluation.losses.items():
            cells = ["" if each is None else f"{each:.4f}" for each in (losses.loss_mdm, losses.loss_ar)]
            lines.append(f"| {size} | {cells[0]} | {cells[1]} |")
    lines += ["", "All settings are in the run's `recipe.yaml`.", ""]
    return "\n".join(lines)
