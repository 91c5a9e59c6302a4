"""The upload of an exported folder to the Hugging Face hub. The token comes from the environment only."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from nbdiff_engine.errors import brief, brief_text
from nbdiff_engine.model.hub_checkpoints import HUB_ID
from training.errors import RunError
from training.run.manifest import MANIFEST

TOKEN = "HF_TOKEN"


@dataclass(frozen=True, slots=True)
class Upload:
    """What would leave this machine, and where it would go. repo: owner/name."""

    repo: str
    folder: Path
    private: bool

    def __str__(self) -> str:
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.name != MANIFEST]
        size = sum(path.stat().st_size for path in files)
        names = ", ".join(sorted(path.relative_to(self.folder).as_posix() for path in files))
        who = "only its owner can read" if self.private else "anyone can read"
        return f"{len(files)} files ({size / 1e6:.1f} MB: {names}) to {_host()}/{self.repo}, which {who}"


def planned(repo: str | None, folder: Path, private: bool) -> Upload:
    """The upload, checked before anything is written or sent. Raises RunError."""
    must_be = "give the owner and the name of the repository, such as you/my-model"
    if repo is None:
        raise RunError.of("--repo", "", f"is missing; {must_be}")
    if not HUB_ID.fullmatch(repo):
        raise RunError.of("--repo", brief(repo), must_be)
    token_of(os.environ)
    return Upload(repo, folder, private)


def token_of(environment: Mapping[str, str]) -> str:
    """The token of the hub. Raises RunError if the environment has none: it is never asked for, stored or printed."""
    token = environment.get(TOKEN, "").strip()
    if not token:
        raise RunError(f"{TOKEN} is not set; set it to a token of the hub that may write, and run again.")
    return token


def send(upload: Upload) -> str:
    """Create the repository if there is none, upload the folder in one commit, and return the address of the commit.

    Raises RunError, one sentence, if the hub refuses or cannot be reached.
    """
    api = huggingface_hub.HfApi(token=token_of(os.environ))
    try:
        repo = api.create_repo(upload.repo, private=upload.private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=upload.folder,
            commit_message="Export of NBDiff playground",
            ignore_patterns=[MANIFEST],
        )
    except Exception as error:  # the hub's client and the network raise many kinds
        raise RunError(
            f"The upload to {upload.repo} failed: {brief_text(' '.join(str(error).split()), 240)}; the export is "
            f"complete in {upload.folder}, so the upload can be repeated."
        ) from error
    return str(commit.commit_url)


def _host() -> str:
    return huggingface_hub.constants.ENDPOINT
