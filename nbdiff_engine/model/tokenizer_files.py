"""The tokenizer of a checkpoint's folder, without remote code, and the token that ends a turn in its chat template."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nbdiff_engine.errors import CheckpointError, brief_text
from nbdiff_engine.model.checkpoint_folders import read_json
from nbdiff_engine.model.transformers_calls import quiet_transformers

logger = logging.getLogger(__name__)

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "*.tiktoken")
_SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
_BOM = b"\xef\xbb\xbf"


@contextmanager
def readable_files(folder: Path, weights: bool = False) -> Iterator[Path]:
    """The folder, or a temporary copy of its small files without their byte order marks.

    weights: the copy is to have the files of weights too, as links.
    transformers and tokenizers refuse a JSON file that begins with one; editors on Windows write it.
    """
    marked = [path for path in folder.glob("*.json") if path.is_file() and _starts_with_bom(path)]
    if not marked:
        yield folder
        return
    with TemporaryDirectory(prefix="nbdiff-") as name:
        copy = Path(name)
        for path in (path for pattern in _SMALL_FILES for path in folder.glob(pattern)):
            shutil.copyfile(path, copy / path.name)
        for path in marked:
            (copy / path.name).write_bytes(path.read_bytes().removeprefix(_BOM))
        for path in folder.glob("*.safetensors") if weights else ():
            try:
                (copy / path.name).symlink_to(path.resolve())
            except OSError:  # Windows allows links only to some users
                shutil.copyfile(path, copy / path.name)
        yield copy


def _starts_with_bom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_BOM)) == _BOM


def load_tokenizer(folder: Path, label: str, remote_classes: bool = False) -> PreTrainedTokenizerBase | None:
    """The tokenizer; None, with a warning, if the checkpoint has none that loads without remote code.

    remote_classes: its tokenizer_config.json names classes of remote code, as that of a published family does.

    Raises CheckpointError for a tokenizer that is damaged, or needs a package that is not installed.
    """
    if not any(path.is_file() for name in _VOCABULARIES for path in folder.glob(name)):
        logger.warning("%s has no tokenizer: prompts must be token ids", label)
        return None
    fast = (folder / "tokenizer.json").is_file()
    needs_code = remote_classes
    if (folder / "tokenizer_config.json").is_file():
        needs_code = needs_code or "auto_map" in read_json(folder, "tokenizer_config.json")
    try:
        with quiet_transformers():
            if needs_code and fast:  # tokenizer.json needs no remote class
                return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
            if not needs_code:
                return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exceptions
        if not remote_classes:
            text = brief_text(str(error).strip() or type(error).__name__, 200)
            raise CheckpointError(f"The tokenizer of {label} cannot be loaded: {text}") from error
    logger.warning("%s has no tokenizer that loads without remote code: prompts must be token ids", label)
    return None


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template writes after what the assistant says, such as Llama 3's <|eot_id|>.

    None if there is no template, or if it does not write one special token there, both at the end of a conversation and
    before a next turn: a token that begins the next turn does not count.
    """
    if not tokenizer.chat_template:
        return None
    said = "The-answer-is-7."
    last = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": said}]
    inside = [*last, {"role": "user", "content": "Why?"}]
    found = {_special_after(tokenizer, turns, said) for turns in (last, inside)}
    return found.pop() if len(found) == 1 else None


def _special_after(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], said: str) -> int | None:
    """The special token that follows the text `said` in a conversation."""
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template is the checkpoint's own program and may raise any exception
        return None
    _, found, after = text.rpartition(said) if isinstance(text, str) else ("", "", "")
    if not found:
        return None
    after = after.lstrip()
    special = {str(token): id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    begins = [token for token in special if token and after.startswith(token)]
    return special[max(begins, key=len)] if begins else None
