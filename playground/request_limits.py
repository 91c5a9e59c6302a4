"""The operator's limits that hold for each request of a visitor: a race, a fork, a sweep."""

from nbdiff_engine import PromptError, SettingError
from nbdiff_engine.errors import brief
from playground.options import ServerOptions


def check_prompt_length(characters: int, options: ServerOptions, with_turns: bool = False) -> None:
    """Raise PromptError for a longer prompt than the server takes. with_turns: the earlier turns are counted too."""
    if characters > options.max_prompt_chars:
        turns = " with the earlier turns" if with_turns else ""
        raise PromptError(
            f"The prompt{turns} is {characters:,} characters long; this server takes at most "
            f"{options.max_prompt_chars:,}."
        )


def check_new_tokens(count: int, options: ServerOptions) -> None:
    """Raise SettingError for more new tokens than the server allows."""
    if count > options.max_new_tokens:
        limit = f"this server allows at most {options.max_new_tokens:,}"
        raise SettingError.of("max_new_tokens", brief(count), limit)
