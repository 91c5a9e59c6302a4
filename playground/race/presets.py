"""Presets: named sets of lanes for a checkpoint, or for a draft adapter and its base."""

from playground.race.run_spec import LaneSpec
from playground.server.lane_models import LaneModel

FIRST = "All strategies"
SMALL_BLOCK = 16
_FEW_DRAFTS = 4  # a forward with noise rows after each draft has the square of it as its width


def presets(model: LaneModel, ar_model: str | None = None) -> dict[str, list[LaneSpec]]:
    """The presets that the checkpoint can decode. The first one is the page's default.

    ar_model: name of the AR checkpoint that it was adapted from, if that is loaded.
    """
    name, spec = model.name, model.spec
    if model.drafts:
        return draft_presets(name, spec.block_size)
    ar = LaneSpec(model=name, strategy="ar")
    if spec is None:
        return {"AR only": [ar]}
    has_ar = spec.commits_as_ar
    small, trained = min(SMALL_BLOCK, spec.block_size), spec.block_size

    def diffusion(**settings: object) -> LaneSpec:
        # Passes that only fill positions after the end of the answer would be spent on nothing that is shown.
        chosen = {"block_size": small, "skip_after_eos": True, **settings}
        return LaneSpec(model=name, strategy="block_diffusion", **chosen)

    drafted = LaneSpec(model=name, strategy="self_speculative", block_size=small)
    ar_if_any = [ar] if has_ar else []
    all_presets = {
        FIRST: [*ar_if_any, diffusion(threshold=0.9), *([drafted] if has_ar else [])],
        "The paper's setting": [*ar_if_any, diffusion(block_size=trained, threshold=0.9, skip_after_eos=None)],
        "Fast": [*ar_if_any, diffusion(threshold=0.6)],
        "Policies": [
            diffusion(unmasking="confidence", threshold=0.9),
            diffusion(unmasking="factor", factor=1.0),
            diffusion(unmasking="margin", margin=0.8),
            diffusion(unmasking="entropy_bound", entropy_bound=0.1),
            diffusion(unmasking="fixed_steps", steps_per_block=4),
        ],
        "One token per step": [*ar_if_any, diffusion(unmasking="top_k", tokens_per_step=1)],
        "Block sizes": [diffusion(block_size=size, threshold=0.9) for size in (1, 4, 16, 32) if size <= trained],
    }
    if has_ar:
        all_presets["Lossless"] = [ar, drafted]
        all_presets["Sampled, same seed"] = [
            ar.model_copy(update={"temperature": 0.8, "seed": 1}),
            drafted.model_copy(update={"temperature": 0.8, "seed": 1}),
        ]
    if ar_model is not None:
        all_presets["Before and after adaptation"] = [LaneSpec(model=ar_model, strategy="ar"), *ar_if_any, diffusion()]
    return all_presets


def draft_presets(name: str, block_size: int) -> dict[str, list[LaneSpec]]:
    """The presets of a draft adapter: the base one token at a time, and with its drafts. They need no loaded model.

    block_size: that the adapter was trained for.
    """
    ar = LaneSpec(model=name, strategy="ar")
    few = min(_FEW_DRAFTS, block_size)

    def drafted(size: int = few) -> LaneSpec:
        # By default it drafts only where that costs no time on this machine, which may be nowhere. With few drafts, a
        # separate forward for them is the cheapest on a CPU.
        how = {"draft_layout": "separate", "draft_backoff": False}
        return LaneSpec(model=name, strategy="self_speculative", block_size=size, **how)

    return {
        "Fewer forwards": [ar, drafted()],
        "Least time on this machine": [ar, LaneSpec(model=name, strategy="self_speculative")],
        "Draft lengths": [ar, *(drafted(size) for size in (2, 4, 8) if size <= block_size)],
        "Sampled, same seed": [each.model_copy(update={"temperature": 0.8, "seed": 1}) for each in (ar, drafted())],
    }
