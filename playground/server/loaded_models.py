"""The models that the server has loaded, and the rules for what a visitor may load.

A visitor may load bundled checkpoints, folders inside the roots that the operator allows, and hub ids if the operator
has allowed the hub. Code from a checkpoint is never run.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

from nbdiff_engine import BlockModel, CheckpointError, SettingError, bundled_models, choose_threads, load, prepare
from nbdiff_engine.errors import brief
from nbdiff_engine.generate import DecodeJob
from nbdiff_engine.model.checkpoint_folders import bundled_adapters, find_checkpoint
from nbdiff_engine.model.gguf_files import converted_bytes
from nbdiff_engine.model.hub_checkpoints import HubName
from nbdiff_engine.model.lora_folders import base_of_adapter
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from nbdiff_engine.model.weight_files import is_adapter, weight_files
from nbdiff_engine.model.weight_options import resolve_device
from playground.options import ServerOptions
from playground.server.coming_model import OPENS_ON, ComingModel, can_be_loaded

QUANTIZATIONS = {"As stored": None, "8 bit": "8bit", "4 bit": "4bit"}
_BYTES_PER_WEIGHT = {"8bit": 1.1, "4bit": 0.7}  # on average, with the layers that stay in 16 bit
_SPARE = 1.15  # memory of the weights, one forward and its cache, divided by that of the weights; a lower bound
_LONGEST_NAME = 400


@dataclass(slots=True)
class _Entry:
    """A loaded model. source: folder or hub id, which identify it; origin: the same in words for visitors.

    users: the number of runs that decode with it now.
    """

    model: BlockModel
    source: str
    origin: str
    quantization: str | None
    users: int = 0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a loaded model. source: its folder, file or hub id; origin: the same in words. memory: bytes of its
    weights; block_size: None for an AR model."""

    name: str
    source: str
    origin: str
    quantization: str | None
    parameters: int
    dtype: str
    memory: int
    device: str
    context_length: int
    block_size: int | None
    about_blocks: str


@dataclass(slots=True)
class LoadedModels:
    """The loaded models by name; the first one is the model that the server was started with. Thread-safe.

    warm: names of models that have decoded once; their next run has no one-time costs. coming: a model that is loaded
    while the page is open; who asks for it waits.
    """

    why_no_forks: ClassVar[str] = ""

    options: ServerOptions
    coming: ComingModel | None = None
    warm: set[str] = field(default_factory=set)
    _models: dict[str, _Entry] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # -- reading -----------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        with self._lock:
            return list(self._models)

    def get(self, name: str) -> BlockModel:
        """A loaded model. Raises SettingError if no model of this name is loaded."""
        self._wait_for(name)
        with self._lock:
            if name not in self._models:
                raise SettingError(
                    f"No model {brief(name)} is loaded; there are {', '.join(self._models)}. The tab Models loads more."
                )
            return self._models[name].model

    def prepare(self, name: str, prompt: Any, *, raw: bool = False, **settings: Any) -> DecodeJob:
        """Check a request to a loaded model. Raises NBDiffError."""
        return prepare(self.get(name), prompt, raw=raw, **settings)

    def source(self, name: str) -> str:
        """The folder or hub id from which a loaded model was read."""
        self._wait_for(name)
        with self._lock:
            self.get(name)
            return self._models[name].source

    def facts(self) -> list[ModelFacts]:
        with self._lock:
            return [_facts(name, entry) for name, entry in self._models.items()]

    @contextmanager
    def using(self, name: str) -> Iterator[BlockModel]:
        """Keep a model loaded while it decodes on the calling thread, and set the fastest number of threads for it."""
        self._wait_for(name)
        with self._lock:
            model = self.get(name)
            entry = self._models[name]
            entry.users += 1
        try:
            choose_threads(model)
            yield model
        finally:
            with self._lock:
                entry.users -= 1

    def _wait_for(self, name: str) -> None:
        """Wait for the model that is coming. Never with the lock: the thread that loads it needs that."""
        if self.coming is not None and name == self.coming.name and name not in self._models:
            self.coming.wait()

    # -- changing ----------------------------------------------------------------------------------------

    def add(self, model: BlockModel, source: str, origin: str, quantization: str | None = None) -> str:
        """Add a model under a unique name; returns the name."""
        with self._lock:
            name, number = model.name, 1
            while name in self._models:
                number += 1
                name = f"{model.name} ({number})"
            model.name = name
            self._models[name] = _Entry(model, source, origin, quantization)
            return name

    def load(self, asked: str, quantization: str | None = None) -> str:
        """Load a model that a visitor names, within the operator's limits; returns its name on this server.

        Raises NBDiffError, one sentence. A model that is loaded already is not loaded again.
        """
        where, name, origin = self._allowed(asked)
        if quantization not in QUANTIZATIONS.values():
            raise SettingError(f"The quantisation is {brief(quantization)}; choose 8bit, 4bit or none.")
        if quantization is not None:
            name = f"{name} ({quantization})"
        return self._loaded(where, name, origin, asked, quantization)

    def load_known(self, source: Path | str, name: str, origin: str) -> str:
        """Load a checkpoint that the server itself has found or trained; it may lie outside the roots. Returns its
        name on this server."""
        return self._loaded(source, name, origin, name, None)

    def _loaded(self, where: Path | str, name: str, origin: str, asked: str, quantization: str | None) -> str:
        with self._lock:
            for known, entry in self._models.items():
                if (entry.source, entry.quantization) == (str(where), quantization):
                    return known
            if len(self._models) >= self.options.max_models:
                raise SettingError(
                    f"{len(self._models)} models are loaded, the most that this server allows; unload one first."
                )
        base = None
        if is_adapter(folder := where if isinstance(where, Path) else find_checkpoint(where)):
            base = self._allowed_base(folder, name)
        self._check_size(where if base is None else base, asked, quantization)
        model = load(where, quantization=quantization, base=base)
        if model.tokenizer is None:
            raise CheckpointError(f"{name} has no tokenizer, so the page cannot send it a prompt.")
        model.name = name
        return self.add(model, str(where), origin, quantization)

    def unload(self, name: str) -> None:
        """Unload a model and free its memory. Raises SettingError if it is decoding, or if it is the last one."""
        with self._lock:
            self.get(name)
            if self._models[name].users:
                raise SettingError(f"{name} is decoding; stop the run first.")
            if len(self._models) == 1:
                raise SettingError(f"{name} is the only model that is loaded; load another one first.")
            del self._models[name]
            self.warm.discard(name)

    # -- limits ------------------------------------------------------------------------------------------

    def _allowed(self, asked: str) -> tuple[Path | str, str, str]:
        """(folder or hub id, name, origin in words) of what a visitor may load. Raises SettingError."""
        asked = asked.strip() if isinstance(asked, str) else ""
        if not asked or len(asked) > _LONGEST_NAME or not asked.isprintable():
            raise SettingError("Give the name of a model: a bundled name, a folder, a GGUF file, or a hub id.")
        bundled = bundled_models() | bundled_adapters()
        if asked in bundled:
            return bundled[asked], asked, "bundled"
        if asked in PACKAGED_MODELS:
            return self._packaged(asked)
        looks_like_id = HubName.of(asked) is not None
        for root in self.options.model_roots:
            # A relative path is relative to a root, never to the server's working directory.
            path = (root / asked).resolve()
            if path.is_relative_to(root) and (path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf")):
                return path, path.name, str(path)
        if looks_like_id and not Path(asked).exists():  # the loader would read a folder of that name instead
            if self.options.hub:
                return asked, asked, f"hub: {asked}"
            raise SettingError(
                f"{asked} is no bundled model and no folder inside an allowed root. This server loads nothing from the "
                "hub; its operator can allow that with --hub."
            )
        allowed = ", ".join(str(root) for root in self.options.model_roots)
        raise SettingError(
            f"{brief(asked)} is no bundled model ({', '.join(bundled)}) and no folder inside an allowed root "
            f"({allowed or 'there is none; the operator of this server can add one with --model-root'})."
        )

    def _packaged(self, name: str) -> tuple[Path | str, str, str]:
        """`_allowed` of a model that a package brings. Only the operator installs it."""
        model = PACKAGED_MODELS[name]
        if model.gguf is not None:
            return model.gguf, name, f"package {model.package}"
        if self.options.hub:
            return model.hub_id, name, f"hub: {model.hub_id}"
        raise SettingError(f"{name} is not installed on this server: {model.how_to_install}.")

    def _allowed_base(self, adapter: Path, name: str) -> Path | str:
        """The base of an adapter, which a visitor must be allowed to load too. Raises NBDiffError."""
        try:
            return self._allowed(base_of_adapter(adapter, name))[0]
        except SettingError as error:
            raise SettingError(f"{name} is an adapter, and its base may not be loaded: {error}") from error

    def _check_size(self, where: Path | str, asked: str, quantization: str | None) -> None:
        if isinstance(where, str):
            return  # a model of the hub: its size is not known
        if where.is_file():
            stored = converted_bytes(where, asked)
        elif not any(where.glob("*.safetensors")):
            stored = max((converted_bytes(path, asked) for path in where.glob("*.gguf")), default=0)
        else:
            stored = sum(path.stat().st_size for path in weight_files(where))
        # This assumes 16-bit weights. Weights that are stored in 32 bits shrink more when they are quantised.
        needed = int(stored * _BYTES_PER_WEIGHT.get(quantization, 2.0) / 2 * _SPARE)
        if needed > self.options.max_model_gb * 1e9:
            raise SettingError(
                f"{asked} needs about {needed / 1e9:.1f} GB of memory; this server loads models of at most "
                f"{self.options.max_model_gb:g} GB."
            )
        free = psutil.virtual_memory().available
        if resolve_device("auto").type != "cuda" and needed > free:
            raise SettingError(
                f"{asked} needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; "
                "unload another model, or load it in 8 or 4 bit."
            )


def first_models(options: ServerOptions) -> LoadedModels:
    """The models at the start of the server: the operator's; if that is a bundled one, the other bundled ones too.

    If the operator names none: the bundled ones, and one that is coming where it can be loaded.

    Raises NBDiffError for a model that cannot be loaded or has no tokenizer. The limits of visitors do not apply to the
    model that the operator names.
    """
    comes = options.model is None and options.max_models > 1 and can_be_loaded()
    loaded = LoadedModels(options, ComingModel(OPENS_ON) if comes else None)
    bundled = bundled_models()
    asked = options.model or "nano"
    model = load(asked)
    if model.tokenizer is None:
        raise CheckpointError(f"{model.name} has no tokenizer, so the page cannot send it a prompt.")
    if asked not in bundled and Path(asked).exists():
        model.name = Path(asked).resolve().name
    source = (bundled | bundled_adapters()).get(asked, asked)
    if asked in PACKAGED_MODELS:
        source = PACKAGED_MODELS[asked].gguf or PACKAGED_MODELS[asked].hub_id
    loaded.add(model, str(source), "bundled" if asked in bundled else asked)
    if asked in bundled:
        for name in bundled:
            if name != asked and len(loaded.names()) + comes < options.max_models:
                loaded.load(name)
    return loaded


def _facts(name: str, entry: _Entry) -> ModelFacts:
    model, spec = entry.model, entry.model.spec
    tensors: list[Any] = [*model.network.parameters(), *model.network.buffers()]
    kinds = {"8bit": "8 bit", "4bit": "4 bit"}
    dtype = str(model.dtype).removeprefix("torch.")
    about = "autoregressive only"
    if spec is not None:
        about = f"blocks of {spec.block_size}, {spec.context.replace('_', '-')} context, {spec.unmasking}"
        about += f", threshold {spec.threshold:g}" if spec.threshold is not None else ""
        about += ", commits like AR" if spec.commits_as_ar else ""
        if model.drafts:
            about = f"drafts blocks of {spec.block_size}, and the base verifies them"
    return ModelFacts(
        name=name,
        source=entry.source,
        origin=entry.origin,
        quantization=entry.quantization,
        parameters=model.parameters,
        dtype=kinds.get(entry.quantization, dtype),
        memory=sum(each.numel() * each.element_size() for each in tensors),
        device=str(model.device),
        context_length=model.context_length,
        block_size=None if spec is None else spec.block_size,
        about_blocks=about,
    )
