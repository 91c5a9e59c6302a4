"""The command `serve`: an OpenAI-compatible server over one model (docs/serving.md).

python -m nbdiff_engine serve nano
NBDIFF_API_KEY=secret python -m nbdiff_engine serve smollm2 --host 0.0.0.0 --port 8000
python -m nbdiff_engine serve nano --ray --ray-address auto --replicas 1:8
"""

import ipaddress
import logging
import os
import socket
from typing import Annotated

import typer

from nbdiff_engine.errors import NBDiffError
from nbdiff_engine.load_options import (
    MODEL,
    AdapterOption,
    BaseOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    QuantizationOption,
)
from nbdiff_engine.model.checkpoints import load
from nbdiff_engine.model.threads import choose_threads
from nbdiff_engine.ray_cluster import ADDRESS_VARIABLE

KEY_VARIABLE = "NBDIFF_API_KEY"


def serve_command(
    model: Annotated[str, typer.Argument(help=MODEL)] = "nano",
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen at; one that others reach needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar=KEY_VARIABLE, help="What requests must send as bearer token.", show_default=False),
    ] = None,
    served_name: Annotated[str | None, typer.Option(help="The model's name in requests; default: as loaded.")] = None,
    base: BaseOption = None,
    adapter: AdapterOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    quantization: QuantizationOption = None,
    device_map: DeviceMapOption = None,
    rows: Annotated[int, typer.Option(min=1, help="Answers that are decoded together.")] = 16,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; further ones get status 429.")] = 256,
    cache_mb: Annotated[int, typer.Option(min=1, help="Megabytes for the keys and values of running answers.")] = 2048,
    prefix_mb: Annotated[
        int, typer.Option(min=0, help="Megabytes for those kept of ended answers; 0: read every prompt as a whole.")
    ] = 512,
    prefill_tokens: Annotated[
        int, typer.Option(min=64, help="Tokens of long prompts that are read between two forwards of other answers.")
    ] = 128,
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer, if a request does not say.")] = 512,
    ray: Annotated[bool, typer.Option("--ray", help="Serve on a Ray cluster, by Ray Serve.")] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(help=f"host:port of that cluster's head, auto, or local. Default: ${ADDRESS_VARIABLE}."),
    ] = None,
    replicas: Annotated[
        str | None, typer.Option(help="On Ray: a number, or MIN:MAX, between which the load decides. Default: 1.")
    ] = None,
    replica_cpus: Annotated[float | None, typer.Option(min=0.01, help="On Ray: CPUs of a replica. Default: 1.")] = None,
    replica_gpus: Annotated[
        float | None, typer.Option(min=0, help="On Ray: GPUs of a replica. Default: 1 if the cluster has any, else 0.")
    ] = None,
) -> None:
    """Serve a model to OpenAI clients: /v1/chat/completions, /v1/completions, /v1/models, /metrics, /docs."""
    # Imported here: the other commands need no web server.
    from nbdiff_engine.serving.app import make_app
    from nbdiff_engine.serving.scheduler import SchedulerLimits
    from nbdiff_engine.serving.stopping import run_server

    api_key = api_key or None
    if served_name == "":
        raise NBDiffError("--served-name is empty; give a name, or leave it out.")
    of_ray = {
        "--ray-address": ray_address,
        "--replicas": replicas,
        "--replica-cpus": replica_cpus,
        "--replica-gpus": replica_gpus,
    }
    if not ray and (given := next((name for name, value in of_ray.items() if value is not None), None)):
        raise NBDiffError(f"{given} is for a server on Ray; add --ray, or leave it out.")
    if api_key is None and not is_loopback(host):
        raise NBDiffError(f"Others can reach {host}; set {KEY_VARIABLE} to a key, or use --host 127.0.0.1.")
    how = {"dtype": dtype, "device": device, "quantization": quantization, "device_map": device_map}
    limits = SchedulerLimits(queue, rows, cache_mb * 10**6, prefix_mb * 10**6, prefill_tokens)
    if ray:
        from nbdiff_engine.serving.on_ray import ReplicaModel, Replicas, serve_on_ray

        wanted = Replicas.of("1" if replicas is None else replicas, replica_cpus or 1.0, replica_gpus)
        how |= {"model": model, "base": base, "adapter": adapter}
        serve_on_ray(ReplicaModel(how, served_name, api_key, limits, max_tokens), wanted, ray_address, host, port)
        return
    listening = listen(host, port)
    with listening:
        loaded = load(model, base=base, adapter=adapter, **how)
        choose_threads(loaded)
        app = make_app(loaded, served_name, api_key, limits, max_tokens)
        app.state.scheduler.require_room(max_tokens)
        address = f"[{host}]" if ":" in host else host
        listening.listen()  # who reads the next line may connect
        print(f"{served_name or loaded.name} on http://{address}:{listening.getsockname()[1]}/v1", flush=True)
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        run_server(app, listening)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name other than localhost counts as one that others reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to the address. Raises NBDiffError before a model is loaded for nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise NBDiffError(f"Port {port} at {host} cannot be used ({reason}); choose another with --port.") from error
    return found
