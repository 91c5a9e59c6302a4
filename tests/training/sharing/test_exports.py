"""Exports: what is written loads in the programs that it is for, and says what it is."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import nbdiff_engine as nb
from nbdiff_engine.model.passes import Pass
from tests import forked
from tests.training.runs import small_base, small_data, small_recipe
from tests.training.sharing.stand_ins import converter, local_hub
from training.errors import RunError
from training.run.launch import start
from training.sharing import hub_upload, stock_check
from training.sharing.export_source import find_source
from training.sharing.exports import Options, write_export
from training.sharing.stock_check import check_stock
from training.sharing.writing import FOR_SERVERS

SAVING = {"save_every": 2, "eval_every": 0, "keep": 5, "probes": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with the run `lora` and its base."""
    folder = tmp_path_factory.mktemp("runs")
    base, data = small_base(folder / "base"), small_data(folder / "data.jsonl")
    steps = {"max_steps": 4}
    start(small_recipe(base, data, lora={"rank": 4}, saving=SAVING, optimisation=steps), folder / "lora", False)
    return folder


def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([ids])).logits[0]


def test_a_finished_run_is_a_model_for_plain_transformers_with_a_card(runs, tmp_path):
    done = write_export(find_source(str(runs / "lora")), "hf", tmp_path, Options(licence="mit"))
    assert done.folder == tmp_path / "lora-hf"
    ids = [5, 7, 11, 2, 30]
    with torch.inference_mode():
        ours = nb.load(done.folder).open(1, len(ids)).run([Pass(ids, 0, False, 1, range(len(ids)))])
    torch.testing.assert_close(logits(done.folder, ids), ours, atol=1e-4, rtol=0)
    assert any("loads in plain transformers as LlamaForCausalLM" in each for each in done.facts)
    card = ModelCard.load(done.folder / "README.md")
    assert card.data.license == "mit"
    assert card.data.library_name == "transformers"
    assert "block-diffusion" in card.data.tags
    assert "| data | data.jsonl" in card.text
    assert "## This export" in card.text
    assert str(tmp_path) not in card.content
    assert [each.name for each in done.servers if each.line] == ["nbdiff_engine", "SGLang", "vLLM"]
    modes = {path.stat().st_mode for path in done.folder.iterdir()}
    assert len(modes) == 1  # those of safetensors too


def test_a_checkpoint_is_exported_with_a_card_of_its_own(runs, tmp_path):
    done = write_export(find_source(str(runs / "lora"), 2), "hf", tmp_path, Options())
    card = ModelCard.load(done.folder / "README.md")
    assert "| steps | 2 |" in card.text
    assert "The licence is not known here" in card.text
    assert nb.load(done.folder).spec.block_size == 8


@pytest.mark.parametrize("step", [None, 4], ids=["finished", "checkpoint"])
def test_a_lora_is_exported_for_peft_and_its_matrices_alone_for_servers(runs, tmp_path, step):
    done = write_export(find_source(str(runs / "lora"), step), "adapter", tmp_path, Options())
    whole = write_export(find_source(str(runs / "lora"), step), "adapter", tmp_path, Options(merged=True))
    ids = [5, 7, 11, 2, 30]
    base = AutoModelForCausalLM.from_pretrained(runs / "base", dtype=torch.float32)
    with torch.inference_mode():
        found = PeftModel.from_pretrained(base, done.folder / FOR_SERVERS)(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(found[:, 2:], logits(whole.folder, ids)[:, 2:], atol=2e-3, rtol=0)
    names = load_file(done.folder / FOR_SERVERS / "adapter_model.safetensors")
    assert names
    assert all(".lora_" in each for each in names)
    assert any("trainable_tokens" in each for each in load_file(done.folder / "adapter_model.safetensors"))
    lines = {each.name: each.line for each in done.servers}
    assert f"--max-lora-rank 8 --lora-modules adapter={done.folder}/{FOR_SERVERS}" in lines["vLLM"]
    assert nb.load(done.folder).spec.block_size == 8
    assert ModelCard.load(done.folder / "README.md").data.library_name == "peft"


def test_a_model_by_name_is_exported_and_a_wrong_form_refused(tmp_path):
    done = write_export(find_source("nano"), "hf", tmp_path, Options())
    stored = json.loads((done.folder / "config.json").read_text())
    assert stored["dtype"] == "bfloat16"
    with pytest.raises(RunError, match="nano is a whole model without an adapter"):
        write_export(find_source("nano"), "adapter", tmp_path, Options())
    with pytest.raises(RunError, match="--step 3 chooses a checkpoint of a run"):
        find_source("nano", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["nano-hf"]


def test_other_logits_are_refused(runs, tmp_path, monkeypatch):
    class Other:
        @staticmethod
        def from_pretrained(*arguments, **options):
            network, loaded = AutoModelForCausalLM.from_pretrained(*arguments, **options)
            with torch.no_grad():
                network.model.layers[0].self_attn.q_proj.weight.mul_(3)
            return network, loaded

    monkeypatch.setattr(stock_check, "AutoModelForCausalLM", Other)
    with pytest.raises(RunError, match="gives other logits in plain transformers"):
        write_export(find_source(str(runs / "lora")), "hf", tmp_path, Options())
    assert not any(tmp_path.iterdir())


def test_a_folder_that_needs_other_code_is_refused(runs, tmp_path):
    folder = write_export(find_source(str(runs / "lora")), "hf", tmp_path, Options()).folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["MyOwnForCausalLM"]}))
    with pytest.raises(RunError, match="MyOwnForCausalLM"):
        check_stock(folder, "mine")
    spec = {**config["block_diffusion"], "context": "block_causal"}
    (folder / "config.json").write_text(json.dumps({**config, "block_diffusion": spec}))
    with pytest.raises(RunError, match="mine is no AR model"):
        check_stock(folder, "mine")


def test_a_gguf_file_is_written_by_the_converter(runs, tmp_path):
    script = converter(tmp_path)
    options = Options(converter=script, outtype="f16")
    done = write_export(find_source(str(runs / "lora")), "gguf", tmp_path / "out", options)
    content = (done.folder / "lora-f16.gguf").read_bytes()
    arguments = json.loads(content[4:])
    assert arguments[1:] == ["--outfile", arguments[2], "--outtype", "f16"]
    assert ModelCard.load(done.folder / "README.md").data.library_name == "gguf"


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("sys.exit('unknown pre-tokenizer')", "ended with code 1: unknown pre-tokenizer"),
        ("sys.exit(0)", "wrote no GGUF file"),
    ],
)
def test_a_converter_that_fails_leaves_nothing(runs, tmp_path, ending, message):
    options = Options(converter=converter(tmp_path, ending))
    with pytest.raises(RunError, match=message):
        write_export(find_source(str(runs / "lora")), "gguf", tmp_path / "out", options)
    assert not list((tmp_path / "out").iterdir())


def test_nothing_is_converted_where_something_else_is(tmp_path):
    (tmp_path / "nano-gguf").mkdir()
    options = Options(converter=converter(tmp_path, "raise AssertionError"))
    with pytest.raises(RunError, match="nano-gguf is a folder without an export's"):
        write_export(find_source("nano"), "gguf", tmp_path, options)


def test_without_a_converter_one_sentence_says_what_to_do(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"not on PATH; get llama\.cpp and give the file with --converter"):
        write_export(find_source(str(runs / "lora")), "gguf", tmp_path, Options())


def test_an_upload_sends_the_folder_with_the_token_of_the_environment(runs, tmp_path, monkeypatch):
    folder = write_export(find_source(str(runs / "lora")), "hf", tmp_path, Options()).folder
    with local_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        with pytest.raises(RunError, match="HF_TOKEN is not set"):
            hub_upload.planned("someone/mine", folder, private=True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with pytest.raises(RunError, match="--repo is 'mine'"):
            hub_upload.planned("mine", folder, private=True)
        upload = hub_upload.planned("someone/mine", folder, private=True)
        assert "only its owner can read" in str(upload)
        assert "secret" not in str(upload)
        assert hub_upload.send(upload) == f"{hub.address}/someone/mine/commit/1"
        assert hub.created[0]["name"] == "mine"
        assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
        assert hub.tokens == {"Bearer hf_secret"}
        assert set(hub.files) == {each.name for each in folder.iterdir()} - {"manifest.json"}
        assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        hub.refuses = True
        with pytest.raises(RunError, match="The upload to someone/mine failed"):
            hub_upload.send(upload)


def test_an_adapter_whose_base_is_a_folder_of_this_machine_is_not_uploaded(runs, tmp_path):
    with pytest.raises(RunError, match="names its base by a folder of this machine"):
        write_export(find_source(str(runs / "lora")), "adapter", tmp_path, Options(leaves=True))


@pytest.mark.parametrize("licence", ["", " ", "mit\nextra: 1", "a licence of mine"])
def test_a_licence_without_a_name_of_the_hub_is_refused(tmp_path, licence):
    with pytest.raises(RunError, match=r"--licence is .*; give its name as the hub has it, such as mit"):
        write_export(find_source("nano"), "hf", tmp_path, Options(licence=licence))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--check", "--output", "new"], "--output new does not apply to --check, which writes nothing"),
        (["--check", "--to", "hf"], "--to hf does not apply to --check"),
        (["--check", "--step", "1"], "--step 1 does not apply to --check"),
        (["--check", "--merged"], "--merged does not apply to --check"),
        (["--check", "--licence", ""], "--licence '' does not apply to --check"),
        (["--output", "new", "--repo", "you/it"], "--repo you/it is for --to hub; leave it out, or give --to hub."),
        (["--to", "hf", "--output", "new", "--as", "gguf"], "--as gguf is for --to hub"),
        (["--to", "hf", "--output", "new", "--public"], "--public is for --to hub"),
        (["--to", "gguf", "--output", "new", "--yes"], "--yes is for --to hub"),
        (["--output", "new", "--outtype", "auto"], "--outtype auto is for a GGUF file; leave it out"),
        (["--to", "hub", "--output", "new", "--converter", "it.py"], "--converter it.py is for a GGUF file"),
        (["--to", "hub", "--output", "new"], "--repo is missing; give the owner and the name of the repository"),
    ],
)
def test_an_option_that_does_not_apply_is_refused_by_name(run, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("export", "nano", *options)
    assert code == 2
    assert message in err
    assert not any(tmp_path.iterdir())


def test_both_command_lines_export_and_ask_before_an_upload(runs, tmp_path):
    shown = forked.run_module("nbdiff_engine", "export", str(runs / "lora" / "final"), "--check")
    assert shown.returncode == 0
    assert f"vllm serve {runs / 'lora' / 'final'}" in shown.stdout
    refused = forked.run_module(
        "nbdiff_engine", "export", "nano", "--to", "gguf", "--output", str(tmp_path), "--outtype", "q2"
    )
    assert refused.returncode == 2
    assert "--outtype is 'q2'" in refused.stderr
