"""The parts of a model card that are of a draft adapter."""

from training.recipe.recipe import Recipe
from training.run.log_lines import HeldOutEvaluation


def what(recipe: Recipe, base: str, parameters: int) -> str:
    """The first paragraphs. parameters: trained ones."""
    draft = recipe.draft
    noise = "a trained MASK embedding" if draft.noise == "mask" else "random tokens"
    text = f"A draft adapter of {parameters / 1e6:.1f} million parameters for {base}. {recipe.about}".rstrip()
    return (
        f"{text}\n\nIt is active at noise rows only, so every answer is still the base's own. A draft pass reads the "
        f"last token and {recipe.blocks.b_max - 1} noise rows ({noise}, {draft.noise_attention} attention among them), "
        f"and drafts {recipe.blocks.b_max} tokens; the base verifies them in one more pass and keeps those that it "
        "would have written itself."
    )


def use(base: str, folder: str = "final") -> str:
    """How to load the adapter. base, folder: as they are given to `load`."""
    return "\n".join(
        [
            "## Use",
            "",
            "```python",
            "import nbdiff_engine as nb",
            "",
            f'model = nb.load("{base}", adapter="{folder}")  # this folder',
            'print(nb.generate(model, "What is a block?", strategy="self_speculative", max_new_tokens=128).text)',
            "```",
        ]
    )


def acceptance(evaluation: HeldOutEvaluation | None, step: int) -> str:
    """The acceptance by offset after a step, as a table; empty if it was not measured."""
    found = None if evaluation is None else evaluation.acceptance
    if found is None:
        return ""
    cells = ["" if share is None else f"{share:.3f}" for share in found.by_offset]
    numbers = " | ".join(str(k) for k in range(1, len(cells) + 1))
    return "\n".join(
        [
            "## Acceptance",
            "",
            f"On held-out answers after step {step}, {found.blocks:,} blocks: the share of drafts that are the base's "
            "own most likely token, by their distance from the first token of a draft, which is always right.",
            "",
            f"| k | {numbers} |",
            f"|---|{'--:|' * len(cells)}",
            f"| right | {' | '.join(cells)} |",
            "",
            f"Mean accepted run {found.accepted_run:.2f}: a draft and a verify pass give "
            f"{found.accepted_run + 2:.2f} tokens, {found.tokens_per_forward:.2f} per forward.",
        ]
    )
