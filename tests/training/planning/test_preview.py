"""Preview: it shows the data of a run, and neither writes files nor loads weights, except for documents of `self`."""

import json
import re

import pytest

from nbdiff_engine.errors import NBDiffError
from tests.training.bases import rename_entries, write_base
from tests.training.runs import small_base, small_data, small_recipe, written
from training.planning.preview import Preview, attention, documents, preview, write_first_documents
from training.recipe.recipe import Recipe


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


@pytest.fixture
def recipe(base):
    optimisation = ["optimisation.rows=4", "optimisation.packed_length=256", "optimisation.max_steps=1000"]
    return Recipe.read("smoke", [*optimisation, "blocks={b_max: 32, interval: 0.06}"], base=str(base))


def test_a_document_is_shown_with_its_noised_copy(recipe):
    text = preview(recipe, 2, 8)
    assert text.count("document 1:") == text.count("document 2:") == 1
    context, answer, noised, scored = text.split("document 1:")[1].split("\n")[1:5]
    assert context.split(maxsplit=1)[0] == "context"
    assert context.endswith("<bot>")
    assert answer.split(maxsplit=1)[0] == "answer"
    assert answer.endswith("<eos>")
    assert noised.split()[0] == "noised"
    marks = noised.split(maxsplit=1)[1]
    size, fill = map(int, re.search(r"of (\d+) noised tokens \((\d+) fill tokens", scored).groups())
    assert size % 8 == 0
    assert marks.count("|") == size // 8 + 1
    after = marks.split("⟩")[1]
    assert len(after.replace("|", "")) == after.count("▒") + after.count("·") == fill
    assert marks.count("▒") == int(re.search(r"L_MDM (\d+)", scored)[1])


def test_a_preview_is_deterministic_and_writes_nothing(recipe, base, tmp_path):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in base.iterdir())
    assert preview(recipe, 3) == preview(recipe, 3)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in base.iterdir()) == before


def test_no_weight_is_read(recipe, base):
    before = preview(recipe)
    (base / "model.safetensors").write_bytes(b"no weights")
    assert preview(recipe) == before


def test_the_first_token_of_a_block_is_never_masked(recipe):
    shown = Preview.of(recipe, 4)
    for text in documents(shown, 8):
        lines = text.split("  noised ")[1].split("  scored ")[0].splitlines()
        noised = "".join([lines[0][2:], *(line[11:] for line in lines[1:])])
        assert "▒" in noised or "·" in noised
        assert "|▒" not in noised


@pytest.mark.parametrize("context", ["token_causal", "block_causal"])
def test_the_drawn_attention_mask_is_that_of_the_method(recipe, context):
    recipe = recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"context": context})})
    rows = [line for line in attention(Preview.of(recipe, 4), 4).splitlines() if re.match(r"  x(_t)? ", line)]
    cells = [re.search(r"[#.]{20,}", line)[0] for line in rows]
    noised = sum(line.startswith("  x_t") for line in rows)
    assert noised == 12
    assert len(rows) <= 27
    for number, row in enumerate(cells):
        in_noised, in_clean = row[:noised], row[noised:]
        if number < noised:
            block = number // 4
            assert in_noised == "." * 4 * block + "####" + "." * (noised - 4 * block - 4)
            before = len(in_clean) - noised + 4 * block
            assert in_clean == "#" * before + "." * (len(in_clean) - before)
        else:
            assert in_noised == "." * noised
            place, context_size = number - noised, len(in_clean) - noised
            seen = place + 1
            if context == "block_causal" and place >= context_size:
                seen = context_size + ((place - context_size) // 4 + 1) * 4
            assert in_clean == "#" * seen + "." * (len(in_clean) - seen)


def test_the_shares_of_the_block_sizes_sum_to_100_percent(recipe):
    chart = preview(recipe).split("block size over 1,000 steps\n")[1].split("\n\n")[0].splitlines()
    assert [int(line.split()[0]) for line in chart] == [1, 2, 4, 8, 16, 32]
    assert sum(float(re.search(r"([\d.]+) %", line)[1]) for line in chart) == pytest.approx(100)


def test_the_growth_over_epochs_is_that_of_the_steps_of_the_run(recipe, tmp_path):
    data = tmp_path / "my.jsonl"
    data.write_text("\n".join(f'{{"prompt": "number {number}", "completion": "{number}"}}' for number in range(30)))
    blocks = {"kind": "list", "sizes": [1, 4, 32], "starts": [0, 2, 500], "b_max": 32}
    fields = recipe.model_dump(mode="json") | {"blocks": blocks, "data": {"source": str(data)}}
    fields["optimisation"] = {"epochs": 9, "packed_length": 128}
    chart = preview(Recipe.model_validate(fields)).split("block size over ")[1].split("\n\n")[0].splitlines()
    steps = int(chart[0].split()[0])
    assert 3 < steps < 100
    assert chart[1].split()[:3] == ["1", "steps", "1-2"]
    assert chart[2].split()[:3] == ["4", "steps", f"3-{steps}"]
    assert chart[3].split(maxsplit=1) == ["32", "from step 501: not reached"]


def test_documents_that_do_not_fit_are_counted(recipe):
    short = recipe.model_copy(update={"optimisation": recipe.optimisation.model_copy(update={"packed_length": 24})})
    assert "too long         0 of" in preview(recipe)
    assert not re.search(r"too long         0 of", preview(short))


def test_the_preview_notes_that_the_checkpoint_has_no_mask_token(base):
    rename_entries(base, {"<mask>": "<|unused_1|>"})
    text = preview(Recipe.read("nano", base=str(base)), 1)
    assert "chosen by the run; the checkpoint has none yet" in text
    assert "mask" not in (base / "tokenizer_config.json").read_text().replace("chat_template", "")


def test_files_and_plain_text(base, tmp_path):
    data = small_data(tmp_path / "data.jsonl")
    assert "54 of" not in preview(Recipe.read("smoke", base=str(base), data__source=str(data)), 1, 4)
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"one\ntwo {n}"}) + "\n" for n in range(9)), encoding="utf-8")
    text = preview(Recipe.read("smoke", base=str(base), data__source=str(path)), 1, 4)
    assert "↵" in text
    assert "100.0 % of them in answers" in text


def test_pretraining_has_no_noised_copy():
    text = preview(Recipe.read("nano-ar", ["network.tokenizer={vocab_size: 400, documents: 40}"]), 1)
    assert "noised   " not in text
    assert "1, as in every AR model" in text
    assert "the tokenizer shown here is trained on 40 documents" in text


def test_a_preview_raises_the_errors_of_a_run(recipe, tmp_path):
    for wrong in (
        Recipe.read("chat-sft"),
        Recipe.read("chat-sft", base=recipe.base),
        Recipe.read("nano", base="nosuch"),
        recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": "self", "weights": {}})}),
    ):
        with pytest.raises(NBDiffError):
            preview(wrong)


def test_a_preview_of_self_writes_the_first_documents_and_a_run_goes_on_after_them(run, tmp_path, monkeypatch):
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path / "home"))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red and green and\nblue or white or\n")
    fields = small_recipe(small_base(tmp_path / "base"), prompts).model_dump(mode="json")
    own = {"documents": 12, "max_new_tokens": 8, "prompts": str(prompts)}
    fields["data"] = {"source": "self", "held_out": 4, "self_data": own}
    recipe = Recipe.model_validate(fields)
    with pytest.raises(NBDiffError, match="has not written its documents yet"):
        preview(recipe)  # as the page does, which loads no weights for it
    arguments = ["--recipe", str(written(recipe, tmp_path / "recipe.yaml"))]
    code, out, _ = run("preview", *arguments, "--n", "5")
    assert (code, out.count("document 5:")) == (0, 1)
    (file,) = (tmp_path / "home" / "self-data").glob("*/documents.jsonl")
    first = file.read_text().splitlines()
    assert len(first) == 5
    assert "document 1:" in preview(recipe)
    code, _, err = run("estimate", *arguments, "--set", "optimisation.epochs=2")
    assert (code, err.count("\n")) == (2, 1)
    assert "has written only 5 of 12 documents" in err
    write_first_documents(recipe, 12)
    assert file.read_text().splitlines()[:5] == first
    assert len(file.read_text().splitlines()) == 12


def test_the_preview_command(run, base):
    code, out, _ = run("preview", "--recipe", "nano", "--base", str(base), "--n", "1", "--block-size", "8")
    assert (code, out.count("document 1:"), out.count("document 2:")) == (0, 1, 0)
    for wrong in (["--n", "0"], ["--block-size", "0"], ["--set", "nosuch=1"]):
        code, out, err = run("preview", "--recipe", "nano", "--base", str(base), *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1)
