"""Documents that two gloo processes encode together: the batches of one process, with half of the work."""

import json
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from tests import forked
from tests.training.encoders import EOS, LOADED, MASK, written
from training.data.data_settings import DataSettings
from training.data.dataset import open_source
from training.data.documents import DocumentSource
from training.data.encoder import Encoder
from training.data.packing import Cursor, Packer
from training.data.shared_source import SharedSource

ROWS = 150
EPOCHS = 3


def batches(source: DocumentSource) -> tuple[list[list], int]:
    """Every batch of three epochs, first after a check as at the start of a run; and the documents left out."""
    packer, cursor, found = Packer(source, 48, 0, 8), Cursor(), []
    packer.check()
    while cursor.document < EPOCHS * len(source):
        packed, cursor = packer.batch(cursor, 3)
        found.append([getattr(packed, name).tolist() for name in ("ids", "document", "position", "start", "scored")])
    return found, packer.refused


def opened(data: str) -> tuple[DocumentSource, list[str]]:
    """The documents to train on of a file, and a list that gets each text when it is encoded."""
    encoder, encoded = Encoder(LOADED, [EOS], forbidden_ids=[MASK], control_tokens=True), []
    for name in ("encode_text", "encode_pair"):
        whole = getattr(encoder, name)
        setattr(encoder, name, lambda *given, whole=whole: encoded.append(given[0]) or whole(*given))
    return open_source(DataSettings.of(source=data, held_out=0, control_tokens=True), encoder)[0], encoded


def process(number: int, folder: Path, files: list[str]) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=number, world_size=2, timeout=timedelta(seconds=300)
    )
    found = []
    for data in files:
        source, encoded = opened(data)
        encoded.clear()  # `open_source` has tried the first document
        found.append([*batches(SharedSource(source, dist.group.WORLD)), encoded])
    (folder / f"{number}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_two_processes_read_the_batches_of_one_and_encode_each_document_once(tmp_path, cache):
    mask = LOADED.convert_ids_to_tokens(MASK)
    texts = [" ".join(f"word{number}" for _ in range(1 + number % 9)) for number in range(ROWS)]
    texts[20] = f"a text with {mask}"
    files = [
        written(tmp_path / "pairs.jsonl", [{"prompt": text, "completion": f"to {text}"} for text in texts]),
        written(tmp_path / "texts.jsonl", [{"text": text} for text in texts]),
    ]
    forked.run_function(process, 2, tmp_path, files)
    one, two = (json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2))
    for data, first, second in zip(files, one, two, strict=True):
        expected = [*batches(opened(data)[0])]
        assert expected[1] == EPOCHS  # the document with MASK
        assert first[:2] == second[:2] == expected
        usable = sorted(text for text in first[2] + second[2] if mask not in text)
        assert len(usable) <= ROWS  # of 3 epochs and a check; each process has also tried the first document
        assert {*usable} >= {*texts} - {texts[20], opened(data)[1][0]}
        assert abs(len(first[2]) - len(second[2])) < ROWS / 5
