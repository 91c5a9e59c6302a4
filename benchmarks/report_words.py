"""Settings as a report calls them."""


def strategy_words(strategy: str) -> str:
    """ "block_diffusion" as "block diffusion"."""
    return {"ar": "AR", "self_speculative": "self-speculation"}.get(strategy, strategy.replace("_", " "))


def setting_words(setting: str, without: int | None = None) -> str:
    """ "block_diffusion,block_size=8,threshold=0.7" as "block diffusion, block 8, threshold 0.7".

    The policy goes without saying where there is a threshold: no other has one. without: a block size; of a setting
    with it, only what it has beside the strategy and the size.
    """
    strategy, *parts = setting.split(",")
    said = [
        part.replace("block_size=", "block ").replace("=", " ").replace("_", " ")
        for part in parts
        if not (part == "unmasking=confidence" and any(each.startswith("threshold=") for each in parts))
    ]
    if without is not None:
        said = [part for part in said if part != f"block {without}"]
        return ", ".join(said) or "the checkpoint's own"
    return ", ".join([strategy_words(strategy), *said])
