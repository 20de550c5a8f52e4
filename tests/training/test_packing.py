"""Rows hold every example once, and share as many tokens as can be."""

import hypothesis
from hypothesis import strategies as st

from restem_jax.training import packing

prompt_lists = st.lists(
  st.lists(st.integers(0, 1), min_size=1, max_size=7), min_size=1, max_size=5
)


def groups_of(prompts, shared):
  """Prefix -> the prompts that share it."""
  groups = {}
  for i, (prompt, n) in enumerate(zip(prompts, shared, strict=True)):
    if n:
      groups.setdefault(tuple(prompt[:n]), []).append(i)
  return groups


def partitions(items):
  if not items:
    yield []
    return
  first, *rest = items
  for partition in partitions(rest):
    yield [[first], *partition]
    for i, part in enumerate(partition):
      yield [*partition[:i], [first, *part], *partition[i + 1 :]]


def common(prompts):
  """Leading tokens of all, without the last of any."""
  limit = min(map(len, prompts)) - 1
  same = (len({p[t] for p in prompts}) == 1 for t in range(limit))
  return next((t for t, equal in enumerate(same) if not equal), limit)


def test_by_hand():
  # Two problems with three shots in common (9 9 9): their own questions are
  # longer, so each problem is a group. A lone prompt shares nothing.
  prompts = [
    *[(9, 9, 9, 1, 2, 3, 4, 5, i) for i in range(3)],
    *[(9, 9, 9, 6, 7, 8, 6, 7, i) for i in range(3)],
    (4, 4),
  ]
  assert packing.shared_prefixes(prompts) == [8, 8, 8, 8, 8, 8, 0]
  # With one sample each, the shots are all there is to share.
  assert packing.shared_prefixes(prompts[2:4]) == [3, 3]
  # Equal prompts keep their last token, from which the target is predicted.
  assert packing.shared_prefixes([(1, 2, 3), (1, 2, 3)]) == [2, 2]
  assert packing.shared_prefixes([(1,), (1,), (1, 2)]) == [0, 0, 0]


@hypothesis.given(prompt_lists)
def test_no_other_grouping_saves_more(prompts):
  shared = packing.shared_prefixes(prompts)
  assert all(n < len(p) for n, p in zip(shared, prompts, strict=True))
  groups = groups_of(prompts, shared)
  saved = sum((len(m) - 1) * len(prefix) for prefix, m in groups.items())
  best = max(
    sum((len(part) - 1) * common([prompts[i] for i in part]) for part in parts)
    for parts in partitions(list(range(len(prompts))))
  )
  assert saved == best


@hypothesis.given(prompt_lists, st.integers(0, 3), st.integers(0, 9))
def test_rows(prompts, target, seed):
  lengths = [len(p) + 1 + target for p in prompts]
  shared = packing.shared_prefixes(prompts)
  row_len = max(lengths) + seed
  rows = packing.pack(prompts, lengths, shared, row_len, seed)
  # Every example exactly once.
  assert sorted(i for row in rows for i in row) == list(range(len(prompts)))
  # A row's tokens, each prefix counted once, fit.
  for row in rows:
    own = sum(lengths[i] - shared[i] for i in row)
    prefixes = {tuple(prompts[i][: shared[i]]) for i in row}
    assert own + sum(map(len, prefixes)) <= row_len
  assert rows == packing.pack(prompts, lengths, shared, row_len, seed)


def test_first_fit_by_hand():
  # Lengths 6 and 4 fill rows of 10 whatever the order of the shuffle.
  prompts = [(i, 0) for i in range(8)]
  lengths = [6, 4] * 4
  rows = packing.pack(prompts, lengths, [0] * 8, 10, seed=1)
  assert len(rows) <= 5
  assert all(sum(lengths[i] for i in row) <= 10 for row in rows)
  # Ten examples of one problem: 4 shared tokens and 1 of their own each.
  prompts = [(7, 7, 7, 7, i) for i in range(10)]
  (row,) = packing.pack(prompts, [5] * 10, [4] * 10, 14, seed=1)
  assert sorted(row) == list(range(10))


def test_seeds_shuffle():
  prompts = [(i,) for i in range(20)]
  orders = [
    packing.pack(prompts, [3] * 20, [0] * 20, 6, seed) for seed in range(3)
  ]
  assert orders[0] != orders[1] != orders[2]
  # Neighbours in the data are no neighbours in a row.
  assert {tuple(row) for row in orders[0]} != {tuple(row) for row in orders[1]}
