"""From examples to packed batches: seeded, resumable, no TensorFlow.

In: a random-access sequence of `Example`s. Out: batches of packed rows, in an
order that is a function of (seed, epoch) alone. What is *not* here: where the
examples come from, devices.

  example 0: prompt p p p, target a b     example 1: prompt q, target c

  tokens       p p p a b q c 0
  weights      0 0 0 w w 0 v 0     the weight of *predicting* that token
  segment_ids  1 1 1 1 1 2 2 0     0 is padding
  positions    0 1 2 3 4 0 1 0
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
from typing import Any

import grain
from grain import experimental as grain_experimental
import numpy as np

from restem_jax.records import Example

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
  share = [1 / max(1, len(e.target_ids)) for e in examples]
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
  """

  examples: Sequence[Example]
  batch_size: int
  row_len: int
  seed: int
  normalizer: str = 'real_tokens'

  def __post_init__(self):
    if not self.examples:
      raise ValueError('there is nothing to train on: no examples')
    for example in self.examples:
      n = len(example.prompt_ids) + len(example.target_ids)
      if n > self.row_len:
        raise ValueError(
          f'example {example.id} has {n} tokens, a row has {self.row_len}; '
          'raise row_len'
        )
      if not example.prompt_ids:
        raise ValueError(f'example {example.id} has no prompt token')

  def epoch(self, epoch: int) -> grain.DatasetIterator:
    """An iterator over one epoch's batches.

    Its `get_state()` and `set_state()` resume it exactly. A batch is a dict
    of numpy arrays `[B, T]`: tokens, segment_ids, positions (int32), weights
    (f32) and index (int32: which example, -1 in padding). The last batch is
    filled up with rows of padding.
    """
    weights = token_weights(self.examples, self.normalizer)

    def row(index: int) -> dict[str, np.ndarray]:
      example = self.examples[index]
      tokens = np.array(example.prompt_ids + example.target_ids, np.int32)
      weight = np.zeros(len(tokens), np.float32)
      weight[len(example.prompt_ids) :] = weights[index]
      # Counted from 1 while packing, whose padding is 0.
      return {
        'tokens': tokens,
        'weights': weight,
        'index': np.full(len(tokens), index + 1, np.int32),
      }

    shuffled = grain.MapDataset.range(len(self.examples)).shuffle(
      seed=(self.seed * 1_000_003 + epoch) % 2**32
    )
    rows = grain_experimental.FirstFitPackIterDataset(
      shuffled.map(row).to_iter_dataset(),
      length_struct=dict.fromkeys(('tokens', 'weights', 'index'), self.row_len),
      num_packing_bins=max(16, self.batch_size),
      seed=self.seed,
    )
    return iter(
      rows.batch(self.batch_size, drop_remainder=False, batch_fn=self._stack)
    )

  def _stack(self, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    names = {
      'tokens': 'tokens',
      'weights': 'weights',
      'segment_ids': 'tokens_segment_ids',
      'positions': 'tokens_positions',
      'index': 'index',
    }
    shape = (self.batch_size, self.row_len)
    batch = {}
    for name, packed in names.items():
      kind = np.float32 if name == 'weights' else np.int32
      batch[name] = np.zeros(shape, kind)
      batch[name][: len(rows)] = [row[packed] for row in rows]
    batch['index'] -= 1
    return batch

  def num_batches(self) -> int:
    """Batches of epoch 0; another order may pack to one more or fewer."""
    return sum(1 for _ in self.epoch(0))
