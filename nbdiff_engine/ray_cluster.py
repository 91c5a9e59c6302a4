"""A connection to a Ray cluster, for serving and for training. Ray is an extra: `pip install ".[ray]"`."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from nbdiff_engine.errors import NBDiffError, brief, brief_text

ADDRESS_VARIABLE = "RAY_ADDRESS"
LOCAL = "local"  # instead of an address: a cluster of this machine alone, which ends with the command


def require_ray() -> None:
    """Raise NBDiffError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise NBDiffError('Ray is not installed; run pip install "ray[train,serve]>=2.60,<3", or leave out Ray.')
    # Ray reads this when it is imported. Nothing about a run is to leave the machine unasked.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def known_address(given: str | None) -> str:
    """The address of the cluster: the given one, else that of $RAY_ADDRESS. Raises NBDiffError if there is neither."""
    address = given or os.environ.get(ADDRESS_VARIABLE)
    if not address:
        raise NBDiffError(
            f"There is no address of a Ray cluster: give HOST:PORT of its head, or set {ADDRESS_VARIABLE}, or "
            f"give {LOCAL} for a cluster of this machine alone."
        )
    return address


@contextmanager
def connected(given: str | None) -> Iterator[None]:
    """This process as a driver of a cluster, until the end of the `with` block. given: as in `known_address`.

    Raises NBDiffError if Ray is not installed, or there is no cluster at the address.
    """
    require_ray()
    address = known_address(given)
    import ray

    try:
        ray.init(address, logging_level="WARNING")
    except Exception as error:  # also a plain Exception, where a head does not start in time
        raise NBDiffError(
            f"The Ray cluster at {brief(address)} cannot be used: {brief_text(str(error), 200)} Check the address; "
            "ray status shows a cluster that runs."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_room(what: str, count: int, cpus: float, gpus: float) -> None:
    """Raise NBDiffError if the connected cluster is too small. what: the plural of what needs cpus and gpus each."""
    import ray

    have = ray.cluster_resources()
    for name, each in (("CPU", cpus), ("GPU", gpus)):
        if count * each > have.get(name, 0):
            raise NBDiffError(
                f"{count} {what} of {each:g} {name}s need {count * each:g}, and the Ray cluster has "
                f"{have.get(name, 0):g}; ask for fewer, or add machines to the cluster."
            )


def cluster_has_gpus() -> bool:
    """Whether any machine of the connected cluster has a GPU."""
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0
