"""Rows hold every example once, and share as many tokens as can be."""

import hypothesis
from hypothesis import strategies as st

from restem_jax.training import packing

prompt_lists = st.lists(
  st.lists(st.integers(0, 1), min_size=1, max_size=7), min_size=1, max_size=6
)
SHOTS = (9, 9, 9)


def test_common_tokens():
  assert packing.common((1, 2, 3, 4), (1, 2, 5)) == 2
  # Equal prompts keep their last token, from which the target is predicted.
  assert packing.common((1, 2, 3), (1, 2, 3)) == 2
  assert packing.common((1, 2, 3), (1, 2, 3, 4)) == 2
  assert packing.common((1,), (1, 2)) == packing.common((), (1,)) == 0


def test_paths_by_hand():
  # Two problems behind the same shots, and one of another task.
  prompts = [
    *[(*SHOTS, 1, 2, 3)] * 2,
    (4, 4),
    *[(*SHOTS, 6, 7)] * 2,
    (*SHOTS, 8),
  ]
  a, b, alone, c, d, e = packing.paths(prompts)
  depths = lambda path: [depth for _, depth in path]
  assert depths(a) == [3, 5] and a == b
  assert depths(c) == [3, 4] and c == d
  assert depths(e) == [3] and alone == ()
  assert a[0] == c[0] == e[0] and a[1] != c[1]


@hypothesis.given(prompt_lists)
def test_paths_say_what_any_two_share(prompts):
  paths = packing.paths(prompts)
  for a, path in zip(prompts, paths, strict=True):
    assert [depth for _, depth in path] == sorted({d for _, d in path})
    for b, other in zip(prompts, paths, strict=True):
      if a is not b:
        both = [depth for node, depth in path if (node, depth) in other]
        assert max(both, default=0) == packing.common(a, b)


def tokens_of(prompts, lengths, row):
  """Of a row with all that its examples share in it once."""
  return sum(lengths[i] - n for i, n in packing.in_order(prompts, row))


@hypothesis.given(prompt_lists)
def test_nothing_is_shared_twice(prompts):
  """What a row holds of its prompts are the different ways they begin."""
  everything = list(range(len(prompts)))
  beginnings = {
    tuple(p[:n]) for p in prompts for n in range(1, len(p))
  }  # without the last tokens, which each has for itself
  total = tokens_of(prompts, list(map(len, prompts)), everything)
  assert total == len(beginnings) + len(prompts)


@hypothesis.given(prompt_lists, st.integers(0, 3), st.integers(0, 9))
def test_rows(prompts, target, seed):
  lengths = [len(p) + 1 + target for p in prompts]
  row_len = max(lengths) + seed
  for nodes in (packing.paths(prompts), [()] * len(prompts)):
    rows = packing.pack(prompts, lengths, nodes, row_len, seed)
    # Every example exactly once.
    assert sorted(i for row in rows for i in row) == list(range(len(prompts)))
    for row in rows:
      if any(nodes):
        assert tokens_of(prompts, lengths, row) <= row_len
      elif not any(packing.paths(prompts)):
        assert sum(lengths[i] for i in row) <= row_len
    assert rows == packing.pack(prompts, lengths, nodes, row_len, seed)


def test_first_fit_by_hand():
  # Lengths 6 and 4 fill rows of 10 whatever the order of the shuffle.
  prompts = [(i, 0) for i in range(8)]
  lengths = [6, 4] * 4
  rows = packing.pack(prompts, lengths, [()] * 8, 10, seed=1)
  assert len(rows) <= 5
  assert all(sum(lengths[i] for i in row) <= 10 for row in rows)
  # Ten examples of one problem: 4 shared tokens and 1 of their own each.
  prompts = [(7, 7, 7, 7, i) for i in range(10)]
  nodes = packing.paths(prompts)
  (row,) = packing.pack(prompts, [5] * 10, nodes, 14, seed=1)
  assert sorted(row) == list(range(10))


def test_samples_of_a_problem_share_a_row():
  # Rows have room for the shots and two questions of three samples each.
  prompts = [(*SHOTS, *[i] * 4) for i in range(10, 20) for _ in range(3)]
  lengths = [len(p) + 2 for p in prompts]
  row_len = 3 + 2 * (3 + 3 * (1 + 2))
  rows = packing.pack(prompts, lengths, packing.paths(prompts), row_len, 0)
  assert len(rows) == 5
  assert all(len({prompts[i] for i in row}) == 2 for row in rows)


def test_seeds_shuffle():
  prompts = [(i,) for i in range(20)]
  orders = [
    packing.pack(prompts, [3] * 20, [()] * 20, 6, seed) for seed in range(3)
  ]
  assert orders[0] != orders[1] != orders[2]
  # Neighbours in the data are no neighbours in a row.
  assert {tuple(row) for row in orders[0]} != {tuple(row) for row in orders[1]}
