"""From examples to packed batches: seeded, resumable, no TensorFlow.

In: a random-access sequence of `Example`s. Out: batches of packed rows, in an
order that is a function of (seed, epoch) alone. What is *not* here: where the
examples come from, which share a row (`packing`), devices.

  example 0: prompt p p x, target a b    example 2: prompt p p y, target d
  example 1: prompt p p x, target c      `p p` is shared, the last token never

  tokens      p p x a b x c y d 0
  weights     0 0 0 w w 0 v 0 u 0     of *predicting* that token
  positions   0 1 2 3 4 2 3 2 3 0
  seen_until  9 9 5 5 5 7 7 9 9 10    the first later token that doesn't see it
  index      -1-1 0 0 0 1 1 2 2 -1    of the example; -1: shared, or padding

Examples that share most are neighbours, so who sees a token is one stretch
behind it: one number per token is the whole mask (as in FlashMask, arXiv
2410.01359). Padding sees itself.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import functools

import grain
import numpy as np

from restem_jax.records import Example
from restem_jax.training import packing

NORMALIZERS = ('real_tokens', 'per_sequence', 'per_problem')


def token_weights(examples: Sequence[Example], normalizer: str) -> list[float]:
  """The weight of each target token, per example.

  The loss of a batch is the weighted mean over its target tokens, so the
  choice of weights is the choice of normalisation (T5X's
  `SpecialLossNormalizingFactor`, t5x/losses.py):

  * `real_tokens`: every token counts alike; long solutions weigh more.
  * `per_sequence`: every example counts alike.
  * `per_problem`: every problem counts alike: exact EM, whose E-step
    distribution is normalised per problem (arXiv 2312.06585 §3).

  All are multiplied by the example's own weight.
  """
  if normalizer not in NORMALIZERS:
    raise ValueError(
      f'normalizer={normalizer!r}; write one of {", ".join(NORMALIZERS)}'
    )
  if normalizer == 'real_tokens':
    return [e.weight for e in examples]
  share = [1 / len(e.target_ids) for e in examples]
  if normalizer == 'per_problem':
    problems = [e.id.rpartition('#')[0] or e.id for e in examples]
    count = Counter(problems)
    share = [s / count[p] for s, p in zip(share, problems, strict=True)]
  return [s * e.weight for s, e in zip(share, examples, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feed:
  """Batches of packed examples.

  Attributes:
    examples: random access; ids, prompt and target token ids, weight.
    batch_size: rows of a batch, B.
    row_len: tokens of a row, T.
    seed: of the shuffles.
    normalizer: see `token_weights`.
    share_prefixes: put what prompts of a row begin with into it once.
  """

  examples: Sequence[Example]
  batch_size: int
  row_len: int
  seed: int
  normalizer: str = 'real_tokens'
  share_prefixes: bool = True

  def __post_init__(self):
    if not self.examples:
      raise ValueError('there is nothing to train on: no examples')
    for example in self.examples:
      n = len(example.prompt_ids) + len(example.target_ids)
      if n > self.row_len:
        raise ValueError(
          f'example {example.id} has {n} tokens, a row has {self.row_len}; '
          'raise Trainer.row_len'
        )
      if not example.prompt_ids or not example.target_ids:
        raise ValueError(f'example {example.id} has no prompt or no target')

  @functools.cached_property
  def _prompts(self) -> list[Sequence[int]]:
    return [e.prompt_ids for e in self.examples]

  @functools.cached_property
  def _nodes(self) -> list[packing.Path]:
    if not self.share_prefixes:
      return [()] * len(self.examples)
    return packing.paths(self._prompts)

  @functools.cached_property
  def _weights(self) -> list[float]:
    return token_weights(self.examples, self.normalizer)

  def rows(self, epoch: int) -> list[list[int]]:
    """The rows of an epoch, as indices of examples."""
    return packing.pack(
      self._prompts,
      [len(e.prompt_ids) + len(e.target_ids) for e in self.examples],
      self._nodes,
      self.row_len,
      seed=self.seed * 1_000_003 + epoch,
    )

  def num_batches(self, epoch: int) -> int:
    """Batches of an epoch."""
    return -(-len(self.rows(epoch)) // self.batch_size)

  def epoch(
    self, epoch: int, local_rows: Sequence[int] | None = None
  ) -> grain.DatasetIterator:
    """An iterator over one epoch's batches.

    Its `get_state()` and `set_state()` resume it exactly, whatever the rows. A
    batch is a dict of numpy arrays `[B, T]`: tokens, positions, seen_until,
    index (int32) and weights (f32). The last batch is filled up with rows of
    padding.

    Args:
      epoch: from 0.
      local_rows: makes only these of the B rows of each batch: those that
        this host's devices hold.
    """
    rows = self.rows(epoch)
    rows += [[]] * (-len(rows) % self.batch_size)
    if local_rows is None:
      local_rows = range(self.batch_size)
    starts = range(0, len(rows), self.batch_size)
    held = [rows[start + i] for start in starts for i in local_rows]
    dataset = (
      grain.MapDataset.source(held)
      .map(self._row)
      .batch(len(local_rows), drop_remainder=True, batch_fn=_stack)
    )
    return iter(dataset.to_iter_dataset())

  def _row(self, members: Sequence[int]) -> dict[str, np.ndarray]:
    row = {
      name: np.zeros(self.row_len, np.int32) for name in ('tokens', 'positions')
    } | {
      'seen_until': np.arange(1, self.row_len + 1, dtype=np.int32),
      'index': np.full(self.row_len, -1, np.int32),
      'weights': np.zeros(self.row_len, np.float32),
    }
    path, end = np.zeros(0, np.intp), 0  # where the example's tokens are
    for i, shared in packing.in_order(self._prompts, members):
      if not self.share_prefixes:
        shared = 0
      example = self.examples[i]
      row['seen_until'][path[shared:]] = end
      row['index'][path[:shared]] = -1
      tokens = (*example.prompt_ids, *example.target_ids)
      own = np.arange(end, end + len(tokens) - shared)
      path, end = np.append(path[:shared], own), own[-1] + 1
      row['tokens'][path] = tokens
      row['positions'][path] = np.arange(len(path))
      row['index'][own] = i
      row['weights'][path[len(example.prompt_ids) :]] = self._weights[i]
    row['seen_until'][path] = end
    return row


def _stack(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {name: np.stack([r[name] for r in rows]) for name in rows[0]}
