"""A checkpoint with a token that is a script tag, as a malicious model could have."""

import json
import shutil
from pathlib import Path

from nbdiff_engine import bundled_models

TOKEN = "</script><img src=x onerror=\"window.hacked='img'\"><script>window.hacked='script'</script>"
REPLACED = "The"  # the first token of the bundled model's answers about capitals
PROMPT = "What is the capital of Germany?"


def write(folder: Path) -> Path:
    """Write the bundled model with the text of one token replaced to `folder`."""
    shutil.copytree(bundled_models()["nano"], folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[TOKEN.replace(" ", "Ġ")] = vocabulary.pop(REPLACED)  # byte-level BPE writes a space as Ġ
    tokenizer["model"]["merges"] = [
        pair for pair in tokenizer["model"]["merges"] if REPLACED not in (*pair, "".join(pair))
    ]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return folder
