"""Small random training examples, packed and one to a row.

In: what hypothesis draws, or a seed. Out: `Example`s, and batches of them
with each example in a row of its own, which is what packing must equal.
"""

from hypothesis import strategies as st
import numpy as np

from restem_jax.records import Example
from restem_jax.training import batches

ROW_LEN, NUM_ROWS = 20, 6

_ids = lambda lowest, most: st.lists(
  st.integers(1, 3), min_size=lowest, max_size=most
).map(tuple)
# Prompts leave a common one somewhere, and often end alike: a tree.
example_lists = st.tuples(
  _ids(9, 9),
  st.lists(
    st.tuples(
      st.integers(0, 9),
      _ids(1, 3),
      _ids(1, 6),
      st.sampled_from([0.25, 1.0, 2.0]),
    ),
    min_size=1,
    max_size=NUM_ROWS,
  ),
).map(
  lambda drawn: [
    Example(
      id=f'p{i // 2}#{i}',
      prompt_ids=(*drawn[0][:cut], *own),
      target_ids=target,
      weight=weight,
    )
    for i, (cut, own, target, weight) in enumerate(drawn[1])
  ]
)


def random_examples(num: int, seed: int = 0) -> list[Example]:
  """Examples of 3 to 12 tokens; those of a problem share its prompt."""
  rng = np.random.default_rng(seed)

  def ids_of(lowest, below):
    size = rng.integers(lowest, below)
    return tuple(rng.integers(1, 32, size).tolist())

  prompts = [ids_of(2, 7) for _ in range(-(-num // 2))]
  return [
    Example(id=f'p{i // 2}#{i}', prompt_ids=prompts[i // 2], target_ids=target)
    for i, target in enumerate(ids_of(1, 7) for _ in range(num))
  ]


def feed(examples, **fields) -> batches.Feed:
  """A feed whose first batch holds everything."""
  fields = {'batch_size': NUM_ROWS, 'row_len': ROW_LEN, 'seed': 0} | fields
  return batches.Feed(examples=examples, **fields)


def first_batch(feed) -> dict[str, np.ndarray]:
  """The first batch of epoch 0, for a device."""
  batch = next(feed.epoch(0))
  del batch['index']
  return batch


def one_per_row(examples, normalizer='real_tokens') -> dict[str, np.ndarray]:
  """A batch `[NUM_ROWS, ROW_LEN]` of the examples, nothing packed."""
  weights = batches.token_weights(examples, normalizer)
  batch = {
    name: np.zeros((NUM_ROWS, ROW_LEN), np.int32)
    for name in ('tokens', 'positions')
  } | {
    'seen_until': np.full((NUM_ROWS, ROW_LEN), ROW_LEN, np.int32),
    'weights': np.zeros((NUM_ROWS, ROW_LEN), np.float32),
  }
  for row, (example, weight) in enumerate(zip(examples, weights, strict=True)):
    prompt, target = example.prompt_ids, example.target_ids
    n = len(prompt) + len(target)
    batch['tokens'][row, :n] = (*prompt, *target)
    batch['positions'][row, :n] = np.arange(n)
    batch['weights'][row, len(prompt) : n] = weight
  return batch
