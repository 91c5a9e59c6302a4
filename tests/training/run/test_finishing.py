"""The end of a run: final/ with its card, and adapter/ beside it, without folders of this machine."""

import pytest
from safetensors import safe_open

from tests.training.runs import small_base, small_data, small_recipe
from training.errors import RunError
from training.run import finishing, hub_facts
from training.run.hub_facts import hub_licence
from training.run.launch import start


@pytest.fixture
def recipe(tmp_path):
    return small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))


def test_the_card_has_data_use_and_settings_and_no_folder(recipe, tmp_path):
    card = (start(recipe, tmp_path / "run", resume=False) / "README.md").read_text()
    assert "| data | data.jsonl: 54 documents, 6 more held out |" in card
    assert 'nb.load("run")' in card
    assert "  packed_length: 64\n" in card
    assert str(tmp_path) not in card


def test_a_lora_run_has_final_and_adapter_in_safetensors(recipe, tmp_path):
    lora = recipe.model_copy(update={"lora": {"rank": 4}})
    final = start(type(recipe).model_validate(lora.model_dump()), tmp_path / "run", resume=False)
    with safe_open(final / "model.safetensors", "pt") as weights:
        assert not any("lora" in name for name in weights.keys())  # noqa: SIM118
    adapter = tmp_path / "run" / "adapter"
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        path.name for path in adapter.iterdir()
    }
    assert str(tmp_path) not in (adapter / "README.md").read_text()


def test_a_run_of_all_weights_has_no_adapter(recipe, tmp_path):
    start(recipe, tmp_path / "run", resume=False)
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_full_disk_at_the_end_is_reported_with_what_to_do(recipe, tmp_path, monkeypatch):
    def full(target, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finishing, "publish", full)
    with pytest.raises(RunError, match=r"final: No space left on device; the last checkpoint is complete"):
        start(recipe, tmp_path / "run", resume=False)


class Hub:
    """The hub's client with one card."""

    def __init__(self, card):
        self.card = card

    def dataset_info(self, name, timeout):
        assert timeout <= 10
        return type("Info", (), {"card_data": self.card})

    def model_info(self, name, timeout):
        raise ConnectionError("no network")


@pytest.mark.parametrize(
    ("card", "licence"),
    [({"license": "mit"}, "mit"), ({"license": ["mit", "other"]}, "mit, other"), ({}, None), (None, None)],
)
def test_the_licence_is_read_from_the_hub_if_it_states_one(card, licence, monkeypatch):
    monkeypatch.setattr(hub_facts.huggingface_hub, "HfApi", lambda: Hub(card))
    assert hub_licence("dataset", "owner/data") == licence
    assert hub_licence("model", "owner/model") is None
