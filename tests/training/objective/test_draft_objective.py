"""The objective of draft adapters: against a forward built by hand, and what it leaves unchanged."""

import copy

import pytest
import torch
from torch.nn import functional as F

from nbdiff_engine import BlockModel
from nbdiff_engine.model.attention import PADDING, additive
from nbdiff_engine.model.draft_adapter import DraftAdapter
from nbdiff_engine.model.draft_spec import DraftSpec
from nbdiff_engine.model.passes import Pass
from tests.tiny import FAMILIES, VOCABULARY, in_part_slow, tiny_model
from tests.training.objective.drafting import draft_adapter, draft_batch, draft_objective, objective_of
from tests.training.packs import answer, packed
from tests.training.runs import small_recipe
from training.data.documents import Document
from training.model.draft_adapters import save_draft_adapter
from training.objective import draft_attention
from training.objective.draft_losses import Weights
from training.objective.noising import IGNORED


def rows(**options):
    turns = Document(answer(20, 30, seed=2).ids, ((4, 15), (20, 50)))
    return packed(answer(5, 20), answer(7, 17, seed=1), turns, rows=2, **options)


@pytest.fixture(params=[(256, 128, 32), (8, 6, 4)], ids=["whole documents", "short runs"])
def cut(request, monkeypatch):
    """Sizes with which attention takes a document at once, or in runs."""
    for name, value in zip(("_SHORT", "_RUN", "_ROUND"), request.param, strict=True):
        monkeypatch.setattr(draft_attention, name, value)


@torch.no_grad()
def logits_by_hand(objective, row_ids, batch, row, group):
    """Logits of one group, from a forward that reads clean prefix and noise rows with the adapter at noise rows alone.

    The base's keys and values come from a forward without the adapter, and a dense mask says who sees whom.
    """
    network, causal = objective.network, objective.causal
    where = slice(group * batch.group, (group + 1) * batch.group)
    anchor, position = int(batch.anchor[row, where.start]), batch.position[row, where]
    prefix = row_ids[: anchor + 1]
    embedded = network.get_input_embeddings()(torch.cat([prefix, batch.ids[row, where]]))
    if objective.mask_embedding is not None:
        embedded[anchor + 1 :][batch.mask[row, where]] = objective.mask_embedding
    total, noise = len(embedded), batch.group
    mask = torch.ones(total, total, dtype=torch.bool).tril()
    if not causal:
        mask[-noise:, -noise:] = True
    # Two forwards of the whole input: the base's gives the hidden states of the clean rows in each layer, which hooks
    # put in place in the adapter's.
    kept, hooks = {}, []
    objective.adapters.disable_adapter_layers()
    layers = network.base_model.layers

    def keep(index):
        return lambda module, args, kwargs, out: kept.__setitem__(index, out if torch.is_tensor(out) else out[0])

    hooks = [each.register_forward_hook(keep(index), with_kwargs=True) for index, each in enumerate(layers)]
    inputs = {
        "inputs_embeds": embedded[None],
        "attention_mask": additive(mask[None, None], torch.float32),
        "position_ids": torch.cat([torch.arange(anchor + 1), position])[None],
        "use_cache": False,
    }
    network.base_model(**inputs)
    for hook in hooks:
        hook.remove()
    objective.adapters.enable_adapter_layers()
    states = {index: each[:, : anchor + 1].clone() for index, each in kept.items()}
    return adapted(objective, inputs, states, anchor, noise)


def adapted(objective, inputs, states, anchor, noise):
    """The adapter's forward, in which every layer reads the base's hidden states at the clean rows, and computes their
    keys and values without the adapter."""
    network = objective.network
    layers = network.base_model.layers

    def replaced(index):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            if index:
                hidden[:, : anchor + 1] = states[index - 1]
            return args, kwargs

        return hook

    def gated(module, args, out):
        """A LoRA layer's output, without its adapter at the clean rows."""
        clean = module.base_layer(args[0])
        return torch.cat([clean[:, : anchor + 1], out[:, anchor + 1 :]], dim=1)

    hooks = [each.register_forward_pre_hook(replaced(index), with_kwargs=True) for index, each in enumerate(layers)]
    hooks += [each.register_forward_hook(gated) for each in network.modules() if hasattr(each, "lora_A")]
    hidden = network.base_model(**inputs).last_hidden_state
    for hook in hooks:
        hook.remove()
    return objective.head(hidden[0, -noise:])


@pytest.mark.parametrize("family", in_part_slow(FAMILIES))
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("plans", [False, True])
def test_the_noise_pass_equals_a_forward_over_the_true_prefix_and_the_group(family, causal, plans, cut):
    objective = draft_objective(family, causal, plans)
    objective.network.eval()
    data = rows()
    batch = draft_batch(data, all_noise=0.5, groups=2, seed=3)
    _, memory = objective._clean(batch)
    hidden = objective._noise(batch, memory)
    objective.network.set_attn_implementation("sdpa")
    at = 0
    for row in range(len(data.ids)):
        for group in range(int((batch.document[row] != PADDING).sum()) // batch.group):
            document = data.document[row] == batch.document[row, group * batch.group]
            expected = logits_by_hand(objective, data.ids[row, document], batch, row, group)
            got = objective.head(hidden[at : at + batch.group])
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
            at += batch.group
    assert at == len(hidden) > 20


@pytest.mark.parametrize("family", in_part_slow(FAMILIES))
@pytest.mark.parametrize("causal", [False, True])
def test_the_engine_drafts_over_its_cache_with_the_logits_of_training(family, causal, tmp_path):
    adapter = draft_adapter(family)
    attention = "causal" if causal else "bidirectional"
    recipe = small_recipe(
        f"tiny-{family}",
        tmp_path / "no data",
        blocks={"kind": "fixed", "b_max": 4},
        lora={"mode": "draft_only", "rank": 4, "alpha": 8},
        draft={"noise_attention": attention},
    )
    save_draft_adapter(adapter, recipe, VOCABULARY, torch.float32, tmp_path)
    spec = DraftSpec.read(tmp_path, "written").diffusion_spec(VOCABULARY)
    network = tiny_model(family).network
    draft = DraftAdapter.read(network, tmp_path, spec.mask_token_id, "written")
    engine = BlockModel(network, None, spec, "written", draft=draft)

    data = packed(answer(7, 17, seed=1))
    objective = objective_of(adapter, causal)
    objective.network.eval()
    batch = draft_batch(data, all_noise=0.5, groups=2, seed=3)
    _, memory = objective._clean(batch)
    with torch.no_grad():
        trained = objective.head(objective._noise(batch, memory))
    tokens = data.ids[0].tolist()
    assert len(trained) > 20
    for at in range(0, len(trained), batch.group):
        rows = slice(at, at + batch.group)
        anchor = int(batch.anchor[0, at])
        ids = [spec.mask_token_id if mask else int(own) for own, mask in zip(batch.ids[0, rows], batch.mask[0, rows])]
        session = engine.open(1, 64)
        session.prefill([tokens[:anchor]])
        drafted = session.run([Pass.mixed(tokens[anchor : anchor + 1], anchor, [(1, ids)], range(1, 1 + len(ids)))])
        torch.testing.assert_close(drafted, trained[rows], rtol=1e-4, atol=1e-4)


def test_the_losses_equal_those_of_full_logits():
    weights = Weights(0.5, 0.3, 0.2)
    objective = draft_objective(weights=weights)
    batch = draft_batch(rows(), decay=2.0, groups=2)
    losses = objective(batch)
    teacher, memory = objective._clean(batch)
    q = F.log_softmax(objective.head(objective._noise(batch, memory)), dim=-1)
    p = F.log_softmax(objective.head(teacher), dim=-1)
    there = batch.document != PADDING
    number = ((batch.packed.document != PADDING).flatten().cumsum(0) - 1).view(batch.packed.ids.shape)
    p = p[number.gather(1, batch.column)[there]]
    targets, weight = batch.targets[there], batch.weight[there]
    ce = F.nll_loss(q, targets.clamp(min=0), reduction="none")
    kl = (p.exp() * (p - q)).sum(1)
    tv = 0.5 * (p.exp() - q.exp()).abs().sum(1)
    expected = (weight * torch.stack([ce, kl, tv])).sum(1)
    torch.testing.assert_close(losses.parts, expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses.loss, expected @ torch.tensor([0.5, 0.3, 0.2]), rtol=1e-4, atol=1e-4)
    assert losses.rows == int((targets != IGNORED).sum())


@pytest.mark.parametrize("mask", [True, False])
def test_gradients_are_in_the_adapter_and_the_mask_embedding_only(mask):
    objective = draft_objective(mask=mask, weights=Weights(1, 1, 1))
    before = {name: each.clone() for name, each in objective.network.named_parameters()}
    objective(draft_batch(rows(), noise_high=None if mask else 48)).loss.backward()
    with_gradient = {name for name, each in objective.named_parameters() if each.grad is not None and each.grad.any()}
    trained = {name for name in with_gradient if "lora_" not in name}
    assert trained == ({"mask_embedding"} if mask else set())
    assert len(with_gradient) - len(trained) == 2 * 2 * 7  # A and B of seven layers in two blocks
    assert all(torch.equal(before[name], each) for name, each in objective.network.named_parameters())


def test_the_loss_at_an_adapter_without_effect_is_that_of_the_base():
    """Noise that is the true text, seen causally: then the drafter is the base, and both divergences are zero."""
    objective = draft_objective(causal=True, zero=True, weights=Weights(1, 1, 1), mask=False)
    data = rows()
    batch = draft_batch(data, noise_high=48)
    true = torch.where(batch.column > 0, data.ids.gather(1, batch.column), batch.ids)
    object.__setattr__(batch, "ids", true)
    losses = objective(batch)
    ce, kl, tv = losses.parts.tolist()
    assert kl == pytest.approx(0, abs=1e-4)
    assert tv == pytest.approx(0, abs=1e-4)
    objective.network.set_attn_implementation("sdpa")
    expected = 0.0
    for row in range(len(data.ids)):
        for number in range(int(data.document[row].max()) + 1):
            here = (data.document[row] == number).nonzero()[:, 0]
            logits = objective.network(input_ids=data.ids[row, here][None], use_cache=False).logits[0]
            own = batch.document[row] == number
            picked, targets = logits[batch.position[row, own].clamp(max=len(here) - 1)], batch.targets[row, own]
            expected += F.cross_entropy(picked, targets, ignore_index=IGNORED, reduction="sum").item()
    assert ce == pytest.approx(expected, rel=1e-4)


def test_padding_and_rows_without_an_answer_give_no_nan():
    objective = draft_objective()
    plain = Document(answer(3, 9).ids, ())
    for data in (rows(length=90), packed(plain), packed(Document(answer(3, 9).ids, None)), packed(answer(6, 1))):
        losses = objective(draft_batch(data))
        losses.loss.backward()
        assert torch.isfinite(losses.loss)
    assert all(torch.isfinite(each.grad).all() for each in objective.parameters() if each.grad is not None)


def test_gradient_checkpointing_changes_nothing():
    found = []
    for checkpointing in (False, True):
        objective = draft_objective()
        if checkpointing:
            objective.network.gradient_checkpointing_enable()
        losses = objective(draft_batch(rows()))
        losses.loss.backward()
        found.append([losses.loss.detach(), *(each.grad for each in objective.parameters() if each.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_clean_pass_ignores_the_adapter_and_dropout():
    objective = draft_objective()
    other = copy.deepcopy(objective)
    with torch.no_grad():
        for name, each in other.network.named_parameters():
            if "lora_" in name:
                each.mul_(3)
    batch = draft_batch(rows())
    one, memory = objective._clean(batch)
    two, others = other._clean(batch)
    assert torch.equal(one, two)
    for (key, value), (other_key, other_value) in zip(memory.kept.values(), others.kept.values(), strict=True):
        assert torch.equal(key, other_key)
        assert torch.equal(value, other_value)
    assert objective.network.training


def test_drafts_are_the_most_likely_tokens_of_drafter_and_base():
    objective = draft_objective(zero=True, causal=True, mask=False)
    data = rows()
    batch = draft_batch(data, noise_high=48)
    object.__setattr__(batch, "ids", torch.where(batch.column > 0, data.ids.gather(1, batch.column), batch.ids))
    drafts = objective.drafts(batch)
    scored = drafts.targets != IGNORED
    assert torch.equal(drafts.tokens[scored], drafts.wanted[scored])  # the drafter is the base here
    assert len(drafts.tokens[scored].unique()) > 3
    assert drafts.offset.tolist() == [1, 2, 3] * (len(drafts.offset) // 3)
    assert drafts.ce[scored].sum().item() == pytest.approx(objective(batch).parts[0].item(), rel=1e-4)
