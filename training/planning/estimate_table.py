"""An estimate as text."""

from collections.abc import Sequence
from dataclasses import asdict

from training.planning.durations import duration
from training.planning.estimate import Estimate
from training.planning.machine_speed import memory_of_machine


def table(found: Estimate, device: str) -> str:
    """The text of an estimate."""
    memory, first, last = found.memory, found.work_first, found.work_last
    share = 100 * found.trained_parameters / found.parameters
    rows: list[tuple[str, str]] = [
        ("model", found.model),
        ("parameters", f"{found.parameters:,}"),
        ("trained", f"{found.trained_parameters:,} ({share:.3g} % of the base's)"),
        ("one forward", f"{found.rows} rows of {found.noised_tokens} noised + {found.clean_tokens} clean tokens"),
        ("data", found.about_data),
        ("one step", f"{found.tokens_per_step:,} clean tokens, {found.max_steps:,} steps"),
        ("", ""),
        ("memory", "of one process"),
        *((f"  {name.replace('_', ' ')}", _gigabytes(size)) for name, size in asdict(memory).items() if size),
    ]
    available = memory_of_machine(device)
    if memory.program:
        rows.append(("  whole process", _gigabytes(memory.process)))
    if available is not None:
        verdict = (
            "fits"
            if memory.process < 0.9 * available
            else "does not fit; see optimisation.gradient_checkpointing, lora"
        )
        rows.append(("  this machine", f"{_gigabytes(available)}: {verdict}"))
    rows += [("", ""), ("operations", "of one step of one process, at the first and the last block size")]
    for name in ("layers", "attention", "head", "recomputed", "total"):
        if getattr(last, name):
            rows.append((f"  {name}", f"{getattr(first, name) / 1e12:10.3f} {getattr(last, name) / 1e12:10.3f} TFLOP"))
    rows.append(("", ""))
    if found.seconds is None:
        rows.append(("time", f"unknown: this machine has no {device} device to measure; give --flops"))
    else:
        rate = found.matmul_flops_per_second / 1e9
        rows += [
            ("time", f"at {rate:,.0f} GFLOP/s of matrix products, at least"),
            ("  a step", f"{duration(found.seconds_per_step_first)} to {duration(found.seconds_per_step_last)}"),
            ("  all steps", duration(found.seconds)),
            ("  evaluations", duration(found.seconds_evaluating)),
        ]
        if found.seconds_writing:
            rows.append(("  writing data", f"up to {duration(found.seconds_writing)}, unless an earlier run wrote it"))
        rows.append(("  the run", duration(found.seconds_in_all)))
    return _aligned(rows)


def _aligned(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{name:16}{value}".rstrip() for name, value in rows)


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:10.3f} GiB"
