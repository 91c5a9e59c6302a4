"""Packing: an epoch has every document once, and a batch depends only on its cursor."""

import pytest
import torch

from nbdiff_engine.model.attention import PADDING
from tests.training.packs import ListSource, answer
from training.data.documents import Document
from training.data.packing import Cursor, Packer
from training.errors import DataError

DOCUMENTS = tuple(answer(3 + n % 5, 4 + n % 9, seed=n) for n in range(23))


def packer(*documents: Document, length: int = 40, seed: int = 0) -> Packer:
    return Packer(ListSource(documents or DOCUMENTS), length, seed, 8)


def documents_of(packed) -> list[tuple[int, ...]]:
    found = []
    for row in range(len(packed.ids)):
        numbers = packed.document[row]
        found += [tuple(packed.ids[row, numbers == n].tolist()) for n in numbers.unique().tolist() if n != PADDING]
    return found


def test_an_epoch_has_every_document_once_and_the_next_epoch_another_order():
    source, cursor, seen = packer(), Cursor(), []
    while cursor.document < 2 * len(DOCUMENTS):
        packed, cursor = source.batch(cursor, 2, 2 * len(DOCUMENTS))
        seen += documents_of(packed)
    expected = sorted(each.ids for each in DOCUMENTS)
    assert sorted(seen) == sorted(expected * 2)
    assert list(source.order(0)) != list(source.order(1))


def test_a_batch_depends_only_on_its_cursor():
    first = packer()
    _, cursor = first.batch(Cursor(), 2)
    again, _ = first.batch(cursor, 2)
    fresh, _ = packer().batch(cursor, 2)
    assert torch.equal(again.ids, fresh.ids)
    assert torch.equal(again.start, fresh.start)


def test_consecutive_batches_have_all_documents_of_the_order():
    """No document is lost between two batches."""
    source, cursor, seen = packer(), Cursor(), []
    for _ in range(4):
        packed, cursor = source.batch(cursor, 2)
        seen += documents_of(packed)
    expected = [DOCUMENTS[source.order(n // 23)[n % 23]].ids for n in range(cursor.document)]
    assert sorted(seen) == sorted(expected)


def test_positions_restart_with_each_document_and_padding_is_marked():
    packed, _ = packer(answer(3, 5), answer(4, 6, seed=1)).batch(Cursor(), 1, 2)
    lengths = [int((packed.document[0] == n).sum()) for n in (0, 1)]
    assert sorted(lengths) == [8, 10]
    assert packed.position[0, : sum(lengths)].tolist() == [*range(lengths[0]), *range(lengths[1])]
    assert (packed.document[0, sum(lengths) :] == PADDING).all()
    assert not packed.scored[0, sum(lengths) :].any()


def test_a_long_text_is_cut_into_rows_and_a_batch_can_end_inside_it():
    text = Document(tuple(range(3, 103)), None)
    source = packer(text, length=40)
    packed, cursor = source.batch(Cursor(), 2)
    assert cursor == Cursor(0, 2)
    rest, _ = source.batch(cursor, 1, 1)
    assert documents_of(packed) + documents_of(rest) == [text.ids[:40], text.ids[40:80], text.ids[80:]]


def test_the_block_grid_of_a_text_starts_at_any_offset_of_the_first_block():
    text = Document(tuple(range(3, 33)), None)
    starts = set()
    for n in range(100):
        packed, _ = packer(text, seed=n).batch(Cursor(), 1, 1)
        starts.add(int(packed.start[0].max()))
    assert starts == set(range(8))


def test_the_end_of_an_answer_that_does_not_fit_is_cut_and_counted():
    source = packer(answer(5, 60), length=40)
    packed, _ = source.batch(Cursor(), 1, 1)
    assert source.cut == 1
    assert (packed.start[0] == 5).sum() == 35


def test_no_room_for_any_answer_raises_one_sentence():
    with pytest.raises(DataError, match="leaves room for an answer in 40 tokens"):
        packer(answer(50, 5), length=40).batch(Cursor(), 1)


def test_a_source_without_documents_raises_one_sentence():
    with pytest.raises(DataError, match="contains no document"):
        Packer(ListSource(()), 40, 0, 8)


def test_documents_that_train_nothing_are_counted_before_the_run(caplog):
    long_prompts = [answer(50, 5, seed=n) for n in range(3)]
    source = packer(*long_prompts, *DOCUMENTS[:2], Document((3,), None), length=40)
    source.check()
    assert "4 of 6 documents train nothing: no token of an answer is in their first 40 tokens" in caplog.text
    assert source.cut == source.refused == 0


def test_if_all_documents_train_nothing_the_run_is_refused(caplog):
    with pytest.raises(DataError, match="leaves room for an answer in 40 tokens, the packed length"):
        packer(answer(50, 5), answer(40, 9), length=40).check()
    packer(answer(39, 9), length=40).check()
    assert not caplog.text
