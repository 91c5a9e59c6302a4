"""What a step logs of the machine. There is no GPU here: functions of torch.cuda are replaced."""

import pytest
import torch

from training.run.machine import gpu_memory, gpu_use, process_memory

GPU = torch.device("cuda", 0)


def test_the_memory_and_the_use_of_a_gpu_are_those_that_pytorch_reports(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_reserved", {GPU: 5_000_000}.__getitem__)
    monkeypatch.setattr(torch.cuda, "utilization", {GPU: 93}.__getitem__)
    assert (gpu_memory(GPU), gpu_use(GPU)) == (5_000_000, 93)


@pytest.mark.parametrize("error", [ModuleNotFoundError("nvidia-ml-py does not seem to be installed"), Exception("MIG")])
def test_a_gpu_that_cannot_be_asked_has_no_use(error, monkeypatch, caplog):
    def refuse(device):
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    with caplog.at_level("INFO"):
        assert (gpu_use(GPU), gpu_use(GPU)) == (None, None)
    assert [record.message for record in caplog.records] == [
        f"The use of the GPU is not logged: {error}. It needs the package nvidia-ml-py and a whole GPU."
    ]


def test_a_cpu_has_ram_and_no_gpu():
    cpu = torch.device("cpu")
    assert process_memory() > 50_000_000
    assert (gpu_memory(cpu), gpu_use(cpu)) == (None, None)
