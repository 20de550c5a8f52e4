"""Which examples share a row: those of a problem, then whatever fits.

In: prompts and lengths of examples. Out: rows, as lists of examples. What is
*not* here: arrays (`batches`).

Prompts begin alike: few shots are the same for a task, and all samples of a
problem have its question. Of the examples of a row each such beginning is put
into it once: a row holds a tree of prompts, whose branches end in targets. So
it holds many more examples than if each brought its prompt along. Loss and
gradient stay those of separate examples: a token sees exactly the tokens
before it in its own example, at the same positions.
"""

from collections.abc import Iterator, Sequence
import random
from typing import TypeAlias

_OPEN_ROWS = 64  # rows that first-fit looks at; older ones are closed
# Where a prompt meets others, from the outside in: (number of the node,
# tokens from the root to it).
Path: TypeAlias = tuple[tuple[int, int], ...]


def common(a: Sequence[int], b: Sequence[int]) -> int:
  """How many tokens two prompts share.

  Never the last of one: its first target token is predicted from it.
  """
  limit = min(len(a), len(b)) - 1
  return next((t for t in range(limit) if a[t] != b[t]), max(0, limit))


def in_order(
  prompts: Sequence[Sequence[int]], members: Sequence[int]
) -> Iterator[tuple[int, int]]:
  """(example, tokens it shares with the one before it), as a row has them.

  In the order of their prompts no other example shares more.
  """
  before: Sequence[int] = ()
  for i in sorted(members, key=lambda i: (tuple(prompts[i]), i)):
    yield i, common(before, prompts[i])
    before = prompts[i]


def paths(prompts: Sequence[Sequence[int]]) -> list[Path]:
  """The nodes of the tree of all prompts that each of them goes through.

  The last node that two of them have in common says how much they share.
  """
  order = list(in_order(prompts, range(len(prompts))))
  shared = [n for _, n in order[1:]] + [0]
  # Stretches of the order whose prompts share `depth` tokens, and no more.
  nodes: list[tuple[int, int, int]] = []  # first, -last, depth
  growing: list[tuple[int, int]] = []  # depth, first
  for at, depth in enumerate(shared):
    first = at
    while growing and growing[-1][0] > depth:
      closed, first = growing.pop()
      nodes.append((first, -at, closed))
    if depth > (growing[-1][0] if growing else 0):
      growing.append((depth, first))
  out: list[list[tuple[int, int]]] = [[] for _ in prompts]
  for number, (first, last, depth) in enumerate(sorted(nodes)):
    for i, _ in order[first : 1 - last]:
      out[i].append((number, depth))
  return [tuple(path) for path in out]


def pack(
  prompts: Sequence[Sequence[int]],
  lengths: Sequence[int],
  nodes: Sequence[Path],
  row_len: int,
  seed: int,
) -> list[list[int]]:
  """Rows of examples: first-fit in a shuffled order, rows shuffled again.

  Examples of one prompt follow each other. Each goes into the row that has
  most of its prompt already, if it has room, else into the first that has.

  Args:
    prompts: token ids.
    lengths: of prompt and target together; at most `row_len`.
    nodes: as `paths` gives them; none: nothing is shared.
    row_len: T.
    seed: of the orders.
  """
  rng = random.Random(seed)
  problems: dict[tuple[int, ...], list[int]] = {}
  for i, prompt in enumerate(prompts):
    problems.setdefault(tuple(prompt), []).append(i)
  groups = list(problems.values())
  rng.shuffle(groups)
  rows: list[list[int]] = []
  room: list[int] = []  # tokens, of each row
  having: dict[int, list[int]] = {}  # node -> the rows that have it

  def place(i: int) -> int:
    """The row for example `i`, whose room is used up."""
    for node, shared in reversed(nodes[i]):
      for row in having.get(node, ()):
        if lengths[i] - shared <= room[row]:
          room[row] -= lengths[i] - shared
          return row
    first = max(0, len(rows) - _OPEN_ROWS)
    fits = (r for r in range(first, len(rows)) if lengths[i] <= room[r])
    row = next(fits, len(rows))
    if row == len(rows):
      rows.append([])
      room.append(row_len)
    room[row] -= lengths[i]
    return row

  for group in groups:
    rng.shuffle(group)
    for i in group:
      row = place(i)
      rows[row].append(i)
      for node, _ in nodes[i]:
        if row not in (found := having.setdefault(node, [])):
          found.append(row)
          del found[:-_OPEN_ROWS]
  rng.shuffle(rows)
  return rows
