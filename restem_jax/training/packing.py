"""Which examples share a row, and which tokens they share in it.

In: prompts and lengths of examples. Out: rows, as lists of examples. What is
*not* here: arrays (`batches`).

Prompts begin alike: few shots are the same for a task, and all samples of a
problem have its question. Tokens that examples of a row begin with are put
into the row once and every one of these examples attends to them, so a row
holds many more examples than if each brought its prompt along. Loss and
gradient stay those of separate examples: a token sees exactly the tokens
before it in its own example, at the same positions.
"""

from collections.abc import Sequence
import random
from typing import TypeAlias

_OPEN_ROWS = 64  # rows that first-fit looks at; older ones are closed
_Group: TypeAlias = tuple[int, int, int]  # depth, first, last


def shared_prefixes(prompts: Sequence[Sequence[int]]) -> list[int]:
  """How many leading tokens of each prompt are to be shared; 0 for none.

  Prompts with equal leading tokens form a tree. Sharing the `d` tokens of a
  node among its `n` prompts saves `(n - 1) * d` tokens; a node is made one
  group where that saves no less than its parts do. A prompt keeps at least
  its last token for itself: the first target token is predicted from it.
  """
  order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
  shared = [0] * len(prompts)

  def common(i: int, j: int) -> int:
    a, b = prompts[i], prompts[j]
    limit = min(len(a), len(b)) - 1
    return next((t for t in range(limit) if a[t] != b[t]), max(0, limit))

  # Intervals of the sorted prompts with a common prefix, closed from the
  # inside out: (depth, first, saved by its parts, groups of its parts).
  stack: list[tuple[int, int, int, list[_Group]]] = [(0, 0, 0, [])]

  def close(last: int) -> tuple[int, int, list[_Group]]:
    depth, first, saved, groups = stack.pop()
    if (own := (last - first) * depth) >= saved:
      return first, own, [(depth, first, last)]
    return first, saved, groups

  for at in range(1, len(order) + 1):
    depth = common(order[at - 1], order[at]) if at < len(order) else 0
    first, saved, groups = at - 1, 0, []
    while stack[-1][0] > depth:
      part_first, part_saved, part_groups = close(at - 1)
      first = part_first
      if stack[-1][0] >= depth:
        outer = stack.pop()
        stack.append(
          (*outer[:2], outer[2] + part_saved, outer[3] + part_groups)
        )
        first, saved, groups = outer[1], 0, []
      else:
        saved, groups = part_saved, part_groups
    if stack[-1][0] < depth:
      stack.append((depth, first, saved, groups))
  for depth, first, last in stack[0][3]:
    for at in range(first, last + 1):
      shared[order[at]] = depth
  return shared


def pack(
  prompts: Sequence[Sequence[int]],
  lengths: Sequence[int],
  shared: Sequence[int],
  row_len: int,
  seed: int,
) -> list[list[int]]:
  """Rows of examples: first-fit in a shuffled order, rows shuffled again.

  Args:
    prompts: token ids.
    lengths: of prompt and target together; at most `row_len`.
    shared: as `shared_prefixes` gives it.
    row_len: T.
    seed: of the orders.
  """
  rng = random.Random(seed)
  order = list(range(len(prompts)))
  rng.shuffle(order)
  groups: dict[tuple[int, ...], int] = {}
  group_of = [
    groups.setdefault(tuple(ids[:n]), len(groups)) if n else -1
    for ids, n in zip(prompts, shared, strict=True)
  ]
  rows: list[list[int]] = []
  # (members, groups whose prefix is in the row, room left), newest last.
  open_rows: list[tuple[list[int], set[int], list[int]]] = []
  for i in order:
    group, whole = group_of[i], lengths[i]
    best, cost = None, whole
    # A row that has the prefix already costs least; else the first that fits.
    for row in open_rows:
      if group in row[1] and whole - shared[i] <= row[2][0]:
        best, cost = row, whole - shared[i]
        break
      if best is None and whole <= row[2][0]:
        best = row
    if best is None:
      best = ([], set(), [row_len])
      rows.append(best[0])
      open_rows = [*open_rows, best][-_OPEN_ROWS:]
    best[0].append(i)
    if group >= 0:
      best[1].add(group)
    best[2][0] -= cost
  rng.shuffle(rows)
  return rows
