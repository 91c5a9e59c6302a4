"""What every command that loads a model takes in the same words: the model, an adapter, dtype, device, quantisation."""

from typing import Annotated

import typer

MODEL = "Name (see models), folder, GGUF file, LoRA folder or hub id."
DTYPE = "auto, float32, bfloat16 or float16"
DEVICE = "auto, cpu, cuda, ..."
QUANTIZATION = "8bit or 4bit, through bitsandbytes"

BaseOption = Annotated[
    str | None, typer.Option(help="The checkpoint of an adapter; default: the one that the adapter names.")
]
AdapterOption = Annotated[
    str | None,
    typer.Option(help="An adapter of the model: a draft adapter is used for drafts only, a plain LoRA is merged."),
]
DtypeOption = Annotated[str, typer.Option(help=f"{DTYPE}.")]
DeviceOption = Annotated[str, typer.Option(help=DEVICE)]
QuantizationOption = Annotated[str | None, typer.Option(help=f"{QUANTIZATION}.")]
DeviceMapOption = Annotated[
    str | None, typer.Option(help="auto: spread the layers over all devices, main memory and disk.")
]
