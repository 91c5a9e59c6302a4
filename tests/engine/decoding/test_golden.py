"""The authors' outputs and denoise inputs are reproduced token for token."""

import pytest

import nbdiff_engine as nb

CASES = 48
POLICY = {"confidence_threshold": "confidence", "origin": "top_k", "entropy": "entropy"}


@pytest.mark.parametrize("number", range(CASES))
def test_reproduces_the_authors_decoding(golden_model, golden_cases, number):
    case = golden_cases[number]
    output = nb.generate(
        golden_model,
        case["prompt_ids"],
        strategy="block_diffusion",
        block_size=case["block_size"],
        sub_block_size=case["block_size"] // case["small_blocks"],
        unmasking=POLICY[case["policy"]],
        threshold=case["threshold"],
        max_new_tokens=case["max_new_tokens"],
    )
    expected = case["output_ids"]
    if 0 in expected:  # their code does not stop at an EOS of id 0; ours does
        expected = expected[: expected.index(0) + 1]
    assert output.token_ids == expected

    inputs = output.trace.denoise_inputs()
    assert expected
    assert inputs
    assert inputs == case["denoise_inputs"][: len(inputs)]
    if output.finish_reason == "length":
        assert len(inputs) == case["denoise_forwards"]


def test_all_cases_are_compared_and_contain_tokens(golden_cases):
    assert len(golden_cases) == CASES > 0
    assert sum(len(case["output_ids"]) for case in golden_cases) > 0
    assert sum(len(case["denoise_inputs"]) for case in golden_cases) > 0


def test_prompts_have_the_authors_token_ids(golden_model, golden_cases):
    for case in golden_cases:
        assert nb.prepare(golden_model, case["prompt"]).prompts == [case["prompt_ids"]]
