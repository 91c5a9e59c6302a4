"""GGUF files: converted once to safetensors, with their tokenizer, and then loaded like any folder."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig

import nbdiff_engine as nb
import nbdiff_engine.model.gguf_files as gguf_files
from tests.engine.model.refusals import refusal

gguf = pytest.importorskip("gguf")

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADS, KV_HEADS, HEAD_SIZE = 4, 2, 16


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(["the capital of Peru is Lima", "the capital of France is Paris"] * 20, trainer)
    return made


def as_llama_cpp(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key projection in llama.cpp's order, where the two halves of RoPE alternate."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, network, tokenizer, kind=None, leave_out: str = "nothing") -> Path:
    """A llama as a GGUF file. kind: the quantisation of its matrices; None: float32."""
    config, writer = network.config, gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([text for text, _ in by_id])
    writer.add_token_types([gguf.TokenType.CONTROL if text in SPECIAL else gguf.TokenType.NORMAL for text, _ in by_id])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in network.state_dict().items():
        if leave_out in name:
            continue
        values = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            values = as_llama_cpp(values, HEADS if "q_proj" in name else KV_HEADS)
        if kind is None or values.ndim == 1:
            writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(values))
        else:
            writer.add_tensor(names.get_name(name, (".weight",)), gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path, network, tokenizer, monkeypatch) -> Path:
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path / "home"))
    return write_gguf(tmp_path / "tiny.gguf", network, tokenizer)


def test_a_file_is_loaded_as_the_network_it_was_written_from(file, network, tokenizer):
    model = nb.load(file)
    assert (model.name, model.dtype) == (str(file), torch.float32)
    for name, tensor in network.state_dict().items():
        assert torch.equal(nb.load(file, fused=False).network.state_dict()[name], tensor), name
    prompt = [5, 9, 33, 12]
    greedy = network.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert nb.generate(model, prompt, max_new_tokens=8, ignore_eos=True).token_ids == greedy[0, 4:].tolist()
    assert model.tokenizer.encode("the capital of Peru") == tokenizer.encode("the capital of Peru").ids
    assert model.tokenizer.chat_template == TEMPLATE
    assert model.eos_token_ids == {0, 2}  # the file's own EOS, and the end of a turn in its template


def test_a_file_is_converted_once_and_again_when_it_changes(file, monkeypatch):
    converted = []
    convert = gguf_files._convert
    monkeypatch.setattr(gguf_files, "_convert", lambda *args: (converted.append(args[1]), convert(*args)))
    threads = [threading.Thread(target=nb.describe, args=(file,)) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(converted) == 1
    os.utime(file, (1, 1))
    nb.describe(file)
    assert len(converted) == 2
    assert [path for path in gguf_files.gguf_home().iterdir() if path.is_dir()] == [converted[1]]


def test_a_conversion_that_was_cut_off_leaves_nothing(file, monkeypatch):
    def cut_off(file, begun, *rest):
        begun.mkdir()
        (begun / "config.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf_files, "_write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            nb.load(file)
    assert [path for path in gguf_files.gguf_home().iterdir() if path.is_dir()] == []
    assert nb.load(file).parameters > 0


@pytest.mark.parametrize(("kind", "dtype"), [("Q8_0", "bfloat16"), ("Q4_0", "bfloat16"), ("F16", "float16")])
def test_quantised_values_are_kept(tmp_path, network, tokenizer, kind, dtype):
    kind = gguf.GGMLQuantizationType[kind]
    file = write_gguf(tmp_path / "tiny.gguf", network, tokenizer, kind)
    described = nb.describe(file)
    assert described.saved_dtype == dtype
    assert gguf_files.converted_bytes(file, "x") == 2 * described.parameters
    name = "model.layers.1.mlp.up_proj.weight"
    stored = gguf.dequantize(gguf.quantize(network.state_dict()[name].numpy(), kind), kind)
    read = nb.load(described, dtype="float32", fused=False).network.state_dict()[name]
    assert torch.equal(read, torch.from_numpy(stored).to(getattr(torch, dtype)).float())


def test_a_folder_of_files(file, network, tokenizer):
    assert nb.load(file.parent).parameters == network.num_parameters()
    other = write_gguf(file.with_name("other.gguf"), network, tokenizer)
    said = refusal(file.parent)
    assert f"holds 2 GGUF files; give one of them: {other}, {file}." in said


def test_files_that_cannot_be_converted_are_refused(file, network, tokenizer, monkeypatch):
    lacking = write_gguf(file.with_name("lacking.gguf"), network, tokenizer, leave_out="layers.1.mlp.up_proj")
    assert "lacks 1 tensors of a LlamaForCausalLM; the first is model.layers.1.mlp.up_proj.weight" in refusal(lacking)
    file.write_bytes(file.read_bytes()[:3000])
    assert "cannot be read as a GGUF file" in refusal(file)
    file.write_bytes(b"GGUF")
    assert "cannot be read as a GGUF file" in refusal(file)
    monkeypatch.setattr(gguf_files.importlib.util, "find_spec", lambda name: None)
    assert "pip install gguf" in refusal(file)


def test_a_full_disk_is_said(file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(gguf_files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
        assert "needs 0.0 GB of disk" in refusal(file)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_files, "_write", full)
    assert "No space left on device" in refusal(file)
