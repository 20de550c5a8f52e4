"""Which token stands where, with which weight, and in which order."""

import hypothesis
import numpy as np
import packed
import pytest

from restem_jax.records import Example
from restem_jax.training import batches

P, X, Y, A, B_, C, D = 11, 12, 13, 14, 15, 16, 17
PICTURE = [
  Example(id='0', prompt_ids=(P, P, X), target_ids=(A, B_), weight=0.5),
  Example(id='1', prompt_ids=(P, P, X), target_ids=(C,), weight=0.25),
  Example(id='2', prompt_ids=(P, P, Y), target_ids=(D,), weight=2.0),
]


def test_the_picture_of_the_docstring():
  feed = packed.feed(PICTURE, batch_size=1, row_len=10)
  # One row; in an epoch whose shuffle leaves the order as it is.
  epoch = next(e for e in range(99) if feed.rows(e) == [[0, 1, 2]])
  (batch,) = feed.epoch(epoch)
  w, v, u = 0.5, 0.25, 2
  expected = {
    'tokens': [P, P, X, A, B_, X, C, Y, D, 0],
    'weights': [0, 0, 0, w, w, 0, v, 0, u, 0],
    'positions': [0, 1, 2, 3, 4, 2, 3, 2, 3, 0],
    'seen_until': [9, 9, 5, 5, 5, 7, 7, 9, 9, 10],
    'index': [-1, -1, 0, 0, 0, 1, 1, 2, 2, -1],
  }
  assert {name: x[0].tolist() for name, x in batch.items()} == expected
  dtypes = {name: x.dtype for name, x in batch.items()}
  assert dtypes.pop('weights') == np.float32
  assert set(dtypes.values()) == {np.dtype(np.int32)}


def test_the_picture_without_sharing():
  feed = packed.feed(PICTURE, batch_size=1, row_len=15, share_prefixes=False)
  epoch = next(e for e in range(99) if feed.rows(e) == [[0, 1, 2]])
  (batch,) = feed.epoch(epoch)
  tokens = [P, P, X, A, B_, P, P, X, C, P, P, Y, D, 0, 0]
  assert batch['tokens'][0].tolist() == tokens
  until = [5] * 5 + [9] * 4 + [13] * 4 + [14, 15]
  assert batch['seen_until'][0].tolist() == until
  index = [0] * 5 + [1] * 4 + [2] * 4 + [-1, -1]
  assert batch['index'][0].tolist() == index
  assert batch['positions'][0].tolist() == [
    *range(5),
    *range(4),
    *range(4),
    *(0, 0),
  ]


def test_a_tree_by_hand():
  """Shots, a question in them, samples of it: each is in the row once."""
  shots, asked = (1, 2), (3, 4, 5)
  examples = [
    Example(id='a#0', prompt_ids=(*shots, *asked, 6), target_ids=(7,)),
    Example(id='b#0', prompt_ids=(*shots, 8), target_ids=(9,)),
    Example(id='a#1', prompt_ids=(*shots, *asked, 6), target_ids=(7, 7)),
  ]
  (batch,) = packed.feed(examples, batch_size=1, row_len=13).epoch(0)
  row = {name: x[0].tolist() for name, x in batch.items()}
  assert row['tokens'] == [1, 2, 3, 4, 5, 6, 7, 6, 7, 7, 8, 9, 0]
  assert row['seen_until'] == [12, 12, *[10] * 3, 7, 7, 10, 10, 10, 12, 12, 13]
  assert row['positions'] == [*range(7), 5, 6, 7, 2, 3, 0]


def test_normalizers_by_hand():
  examples = [
    Example(id='a#0', prompt_ids=(1,), target_ids=(2, 3)),
    Example(id='a#1', prompt_ids=(1,), target_ids=(2, 3, 4, 5), weight=0.5),
    Example(id='b#x#0', prompt_ids=(1,), target_ids=(2,), weight=3.0),
    Example(id='human', prompt_ids=(1,), target_ids=(2, 2)),
  ]
  weights = lambda name: batches.token_weights(examples, name)
  assert weights('real_tokens') == [1, 0.5, 3, 1]
  assert weights('per_sequence') == [1 / 2, 0.5 / 4, 3, 1 / 2]
  # Two examples are of problem a; an id without a sample is its own problem.
  assert weights('per_problem') == [1 / 4, 0.5 / 8, 3, 1 / 2]


@hypothesis.given(packed.example_lists)
def test_an_epoch_holds_every_example_once(examples):
  feed = packed.feed(examples, batch_size=2)
  for epoch in (0, 1):
    seen = {}
    all_batches = list(feed.epoch(epoch))
    assert len(all_batches) == feed.num_batches(epoch)
    for batch in all_batches:
      assert batch['tokens'].shape == (2, packed.ROW_LEN)
      for row in range(2):
        for i in sorted(set(batch['index'][row].tolist()) - {-1}):
          assert i not in seen
          own = np.flatnonzero(batch['index'][row] == i)
          # All that its last token sees, at positions that count them.
          until = batch['seen_until'][row]
          whole = np.flatnonzero(until[: own[-1] + 1] > own[-1])
          seen[i] = batch['tokens'][row][whole].tolist()
          positions = batch['positions'][row][whole].tolist()
          assert positions == list(range(len(seen[i])))
          # Each of its own tokens sees what is before it, and no more.
          for at in own:
            sees = np.flatnonzero(until[: at + 1] > at)
            assert sees.tolist() == whole[whole <= at].tolist()
          weights = batch['weights'][row][own]
          num = len(examples[i].target_ids)
          assert (
            len(weights) > num
          )  # the token that the first is predicted from
          assert (weights[-num:] == examples[i].weight).all()
          assert not weights[:-num].any()
    expected = {
      i: [*e.prompt_ids, *e.target_ids] for i, e in enumerate(examples)
    }
    assert seen == expected


def test_the_order_is_a_function_of_seed_and_epoch():
  examples = packed.random_examples(30)
  feed = packed.feed(examples, seed=3)
  rows = [feed.rows(epoch) for epoch in range(3)]
  # Asked for in another order, of another object, in batches of another size.
  other = packed.feed(list(examples), seed=3, batch_size=2)
  assert [other.rows(epoch) for epoch in (2, 1, 0)] == rows[::-1]
  assert rows[0] != rows[1] != rows[2] != rows[0]
  assert packed.feed(examples, seed=4).rows(0) != rows[0]
  # A seed's second epoch is not the next seed's first.
  assert packed.feed(examples, seed=4).rows(0) != rows[1]
  indices = [
    [sorted(set(row[row >= 0].tolist())) for row in batch['index']]
    for batch in other.epoch(1)
  ]
  flat = [row for batch in indices for row in batch if row]
  assert flat == [sorted(row) for row in rows[1]]


def test_an_epoch_resumes_at_the_next_batch():
  feed = packed.feed(packed.random_examples(30), batch_size=2)
  whole = list(feed.epoch(1))
  assert len(whole) > 4
  for taken in (0, 1, len(whole)):
    first = feed.epoch(1)
    for _ in range(taken):
      next(first)
    second = feed.epoch(1)
    second.set_state(first.get_state())
    rest = list(second)
    assert len(rest) == len(whole) - taken
    for got, expected in zip(rest, whole[taken:], strict=True):
      for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


def test_the_last_batch_is_filled_with_padding():
  examples = packed.random_examples(3)
  feed = packed.feed(examples, batch_size=6)
  (batch,) = feed.epoch(0)
  empty = slice(len(feed.rows(0)), None)
  assert (batch['index'][empty] == -1).all()
  for name in ('tokens', 'weights', 'positions'):
    assert batch[name].shape == (6, packed.ROW_LEN)
    assert not batch[name][empty].any()
  itself = np.arange(packed.ROW_LEN) + 1
  assert (batch['seen_until'][empty] == itself).all()


@pytest.mark.parametrize(
  ('examples', 'fields', 'message'),
  [
    ([], {}, 'nothing to train on'),
    (PICTURE, {'row_len': 4}, 'example 0 has 5 tokens, a row has 4; raise'),
    (
      [Example(id='e', prompt_ids=(), target_ids=(1,))],
      {},
      'example e has no prompt or no target',
    ),
    (
      [Example(id='e', prompt_ids=(1,), target_ids=())],
      {},
      'example e has no prompt or no target',
    ),
  ],
)
def test_what_cannot_be_fed_is_named(examples, fields, message):
  with pytest.raises(ValueError, match=message):
    packed.feed(examples, **fields)


def test_an_unknown_normalizer_says_what_there_is():
  with pytest.raises(ValueError, match="'mean'; write one of real_tokens, per"):
    batches.token_weights(PICTURE, 'mean')
