"""Which launcher started this process, and with which options; options that a run does not support are refused."""

import os
from collections.abc import Mapping, Sequence

import psutil

from training.errors import RunError

_ON = ("1", "true", "yes", "y", "t", "on")
# Set by `accelerate launch` from its options or its config file.
USE_FSDP = "ACCELERATE_USE_FSDP"
_UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config (tensor or context parallelism)",
}


def check_launcher(environment: Mapping[str, str], parent: Sequence[str]) -> None:
    """Raise RunError if more was asked for than a run does: weights split over processes, or processes not started.

    environment: the variables of this process. parent: the command line of the process that started it.
    """
    for variable, what in _UNSUPPORTED.items():
        if environment.get(variable, "").lower() in _ON:
            raise RunError(
                f"{variable} asks for {what}, which training does not support. Unset it (accelerate config sets it "
                "too); to split the model over processes, set shard in the recipe, or use_fsdp with fsdp_version 2."
            )
    if wants_sharding(environment) and environment.get("FSDP_VERSION", "2") != "2":
        raise RunError(
            f"{USE_FSDP} asks for FSDP {environment['FSDP_VERSION']}, but training splits the model by FSDP2 only; set "
            "fsdp_version: 2 in the config of accelerate."
        )
    asked = processes_asked(parent)
    if asked is not None and asked > int(environment.get("WORLD_SIZE", "1")):
        started = environment.get("WORLD_SIZE", "1")
        raise RunError(
            f"accelerate launch was asked for {asked} processes and started {started}, as it does on a CPU; "
            f"run torchrun --standalone --nproc-per-node {asked} -m training with the same arguments."
        )


def wants_sharding(environment: Mapping[str, str]) -> bool:
    """Whether `accelerate launch` asks for FSDP. environment: the variables of this process."""
    return environment.get(USE_FSDP, "").lower() in _ON


def parent_command() -> list[str]:
    """The command line of the process that started this one; empty if it cannot be read."""
    try:
        parent = psutil.Process(os.getpid()).parent()
        return parent.cmdline() if parent is not None else []
    except (psutil.Error, OSError):
        return []


def processes_asked(command: Sequence[str]) -> int | None:
    """The number of processes that an `accelerate launch` command asks for; None for any other command.

    Without the option, it is that of the config file; None if there is none.
    """
    if not _is_accelerate_launch(command):
        return None
    from accelerate.commands.launch import launch_command_parser

    start = next(at for at, part in enumerate(command) if _is_launch(part)) + 1
    given, _ = launch_command_parser().parse_known_args(list(command[start:]))
    if given.num_processes is not None:
        return given.num_processes
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    if given.config_file is None and (given.cpu or not os.path.isfile(default_config_file)):
        return None
    try:
        return load_config_from_file(given.config_file).num_processes
    except (OSError, ValueError, KeyError, TypeError):  # accelerate itself has read it already
        return None


def _is_launch(part: str) -> bool:
    name = os.path.basename(part)
    return name in ("launch", "accelerate-launch", "accelerate.commands.launch") or part.endswith("commands/launch.py")


def _is_accelerate_launch(command: Sequence[str]) -> bool:
    for at, part in enumerate(command[:4]):  # python, -m or a script, the command
        if _is_launch(part):
            return os.path.basename(part) != "launch" or "accelerate" in os.path.basename(command[at - 1])
    return False
