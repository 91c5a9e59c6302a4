"""Names of strategies and settings in a report."""


def strategy_words(strategy: str) -> str:
    """ "block_diffusion" as "block diffusion"."""
    return {"ar": "AR", "self_speculative": "self-speculation"}.get(strategy, strategy.replace("_", " "))


def setting_words(setting: str, without: int | None = None) -> str:
    """ "block_diffusion,block_size=8,threshold=0.7" as "block diffusion, block 8, threshold 0.7".

    The policy "confidence" is left out if there is a threshold, because no other policy has one. without: a block
    size; the strategy and this block size are left out of the text.
    """
    strategy, *parts = setting.split(",")
    shown = [
        part.replace("block_size=", "block ").replace("=", " ").replace("_", " ")
        for part in parts
        if not (part == "unmasking=confidence" and any(each.startswith("threshold=") for each in parts))
    ]
    if without is not None:
        shown = [part for part in shown if part != f"block {without}"]
        return ", ".join(shown) or "the checkpoint's own"
    return ", ".join([strategy_words(strategy), *shown])
