"""One export from its source to its folder: written, checked, with its card."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging as transformers_logging

from nbdiff_engine.errors import brief
from nbdiff_engine.model.checkpoint_folders import bundled_models
from nbdiff_engine.model.draft_spec import DraftSpec, is_draft_adapter
from nbdiff_engine.model.lora_folders import base_of_adapter
from training.errors import RunError
from training.sharing.export_card import CARD, check_licence, write_card
from training.sharing.export_source import Source
from training.sharing.export_target import publish_export
from training.sharing.gguf_converter import OUTTYPES, convert, find_converter
from training.sharing.servers import Server, servers_for
from training.sharing.stock_check import check_stock
from training.sharing.writing import FOR_SERVERS, write_adapter_folder, write_model


@dataclass(frozen=True, slots=True)
class Options:
    """merged: of an adapter, write the base with the adapter merged. converter: None: the one on PATH. licence: of the
    card; None: the one that is known. leaves: whether the export leaves this machine."""

    merged: bool = False
    converter: Path | None = None
    outtype: str = "auto"
    licence: str | None = None
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class Export:
    """What was written. facts: what was done and checked, a sentence each."""

    folder: Path
    facts: tuple[str, ...]
    servers: tuple[Server, ...]


def write_export(source: Source, form: str, output: Path, options: Options) -> Export:
    """Write a source in the form hf, adapter or gguf to a new folder in `output`; an older one is replaced.

    The folder is complete or not there. Raises NBDiffError with one sentence.
    """
    if form == "adapter" and options.merged:
        if source.kind == "model":
            raise RunError(f"{source.given} is a whole model without an adapter to merge; export it with --to hf.")
        form = "hf"
    elif options.merged:
        raise RunError(f"--merged is for --to adapter; --to {form} always merges. Leave it out.")
    check_licence(options.licence)
    transformers_logging.disable_progress_bar()  # of loading and saving weights
    folder = output / f"{source.name}-{form}"
    if form == "adapter":
        return _adapter(source, folder, options)
    return _gguf(source, folder, options) if form == "gguf" else _model(source, folder, options)


def _model(source: Source, folder: Path, options: Options) -> Export:
    facts: list[str] = []

    def after(unfinished: Path) -> None:
        facts.extend(_facts_of_model(source, unfinished))
        write_card(unfinished, source, facts, servers_for(unfinished, "."), "transformers", options.licence)

    write_model(source, folder, after)
    return Export(folder, tuple(facts), tuple(servers_for(folder)))


def _facts_of_model(source: Source, folder: Path) -> list[str]:
    merged = ["The LoRA is merged into the weights of its base."] if source.kind == "lora" else []
    return [*merged, f"Checked: it {check_stock(folder, source.given)}."]


def _adapter(source: Source, folder: Path, options: Options) -> Export:
    facts = ["It belongs to its base, whose weights are not part of it."]
    if source.kind == "lora":
        facts.append(
            f"{FOR_SERVERS}/ holds the LoRA matrices alone, for servers that decode as AR; the folder itself also has "
            "what block diffusion needs: the embedding of MASK and the spec."
        )

    def after(unfinished: Path) -> None:
        if options.leaves:
            _require_public_base(unfinished)
        write_card(unfinished, source, facts, servers_for(unfinished, "."), "peft", options.licence)

    write_adapter_folder(source, folder, after)
    return Export(folder, tuple(facts), tuple(servers_for(folder)))


def _require_public_base(folder: Path) -> None:
    """Raise RunError for an adapter that names its base by a folder: it is of this machine, and nobody else has it."""
    label = folder.name
    base = DraftSpec.read(folder, label).base.name if is_draft_adapter(folder) else base_of_adapter(folder, label)
    if base not in bundled_models() and Path(base).expanduser().exists():
        raise RunError(
            f"The adapter names its base by a folder of this machine, {brief(base)}; upload the merged model "
            "(--as hf), or train with the hub id of the base."
        )


def _gguf(source: Source, folder: Path, options: Options) -> Export:
    if options.outtype not in OUTTYPES:
        raise RunError(f"--outtype is {brief(options.outtype)}; choose one of {', '.join(OUTTYPES)}.")
    converter = find_converter(options.converter)
    facts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="nbdiff-export-") as temporary:
        model = Path(temporary) / "model"

        def after(unfinished: Path) -> None:
            facts.extend(_facts_of_model(source, unfinished))
            facts.append(f"Converted to GGUF ({options.outtype}) by llama.cpp's {converter.name}; it decodes as AR.")
            write_card(unfinished, source, facts, (), "gguf", options.licence)

        def write(unfinished: Path) -> None:
            write_model(source, model, after)
            convert(model, unfinished / f"{source.name}-{options.outtype}.gguf", options.outtype, converter)
            (unfinished / CARD).write_bytes((model / CARD).read_bytes())

        publish_export(folder, write)
    return Export(folder, tuple(facts), ())
