"""The options of the operator, who starts the playground: the model, the address, and the limits for visitors."""

import ipaddress
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

_HAS_JOBS = hasattr(os, "fork")  # what the queue of training jobs needs


class StartError(ValueError):
    """The playground cannot start. The message is one sentence with the reason."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Checked on creation; raises StartError.

    model: None: smollm2-drafts where it can be loaded, with nano beside it; else nano. login: "name:password"; without
    it, the host must be a loopback address. server: the address of an `nbdiff serve` that decodes instead of models
    here; api_key: what it needs. space: the server is a published Space, which controls the access itself and needs no
    login. wall_seconds: the longest time of a run, all lanes together.
    lease_seconds: a run stops if no viewer has polled it for this time. trace_mb: of one run, as JSON. model_roots:
    visitors may load checkpoints inside these folders. hub: whether they may load from the hub. max_models: loaded at
    the same time. max_model_gb: memory of one. training: whether visitors may start training jobs; None: only if no
    other machine can connect.
    """

    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    login: str | None = field(default=None, repr=False)  # must not appear in a log
    space: bool = False
    server: str | None = None
    api_key: str | None = field(default=None, repr=False)
    max_new_tokens: int = 512
    max_prompt_chars: int = 8000
    max_lanes: int = 6
    max_problems: int = 50
    queue: int = 8
    trace_mb: float = 8.0
    wall_seconds: float = 120.0
    lease_seconds: float = 5.0
    model_roots: tuple[Path, ...] = ()
    hub: bool = False
    max_models: int = 5
    max_model_gb: float = 20.0
    training: bool | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise StartError(f"The port is {self.port}; it must be from 1 to 65535.")
        for name in ("max_new_tokens", "max_prompt_chars", "max_lanes", "max_problems", "queue", "max_models"):
            if getattr(self, name) < 1:
                raise StartError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")
        for name, unit in (
            ("wall_seconds", "seconds"),
            ("lease_seconds", "seconds"),
            ("trace_mb", "megabytes"),
            ("max_model_gb", "gigabytes"),
        ):
            amount = getattr(self, name)
            if not (math.isfinite(amount) and amount > 0):
                raise StartError(f"--{name.replace('_', '-')} is {amount:g}; it must be a positive number of {unit}.")
        roots = []
        for root in self.model_roots:
            if not Path(root).is_dir():
                raise StartError(f"--model-root is {root}, which is no folder.")
            roots.append(Path(root).resolve())
        object.__setattr__(self, "model_roots", tuple(roots))
        if self.login is not None and not all(self.login.partition(":")):
            raise StartError("NBDIFF_LOGIN must be name:password; neither part may be empty.")
        if self.login is None and not self.is_local and not self.space:
            raise StartError(
                f"Other machines can connect to the host {self.host}; "
                "set NBDIFF_LOGIN=name:password to require a login, or omit --host."
            )
        for option, given in (("--model", self.model), ("--training", self.training)):
            if self.server is not None and given:
                raise StartError(f"With --server the models are at {self.server}; leave out {option}, or --server.")
        if self.training and not _HAS_JOBS:
            raise StartError("--training needs a POSIX system (Linux, macOS, or WSL on Windows) for its queue of jobs.")
        if self.training and not self.is_local and self.login is None:
            raise StartError(
                "--training lets visitors run training jobs; if other machines can connect, it needs a login "
                "(NBDIFF_LOGIN=name:password)."
            )

    @property
    def trains(self) -> bool:
        """Whether the page has a training tab."""
        if self.server is not None:
            return False
        return self.is_local and _HAS_JOBS if self.training is None else self.training

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def auth(self) -> tuple[str, str] | None:
        """The login in the format of Gradio: (name, password)."""
        if self.login is None:
            return None
        name, _, password = self.login.partition(":")
        return name, password
