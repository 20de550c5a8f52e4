"""Blocks hold the mask; what the kernel computes: test_kernels."""

import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax.models.splash import Blocks

B, T = 2, 384  # tokens: three blocks of 128
# Segments that begin at different tokens in the two rows; causal.
SEGMENTS = np.stack([np.arange(T) // 90, np.arange(T) // 200])
MASK = np.tril(SEGMENTS[:, :, None] == SEGMENTS[:, None])


@pytest.mark.parametrize('along_keys', [True, False])
def test_blocks_hold_the_mask(along_keys):
  """The blocks that a step has in memory are those that it needs."""
  mask = MASK
  blocks = Blocks.of(jnp.asarray(mask), 128, along_keys)
  seen = set()
  for b, i, j in np.ndindex(B, 3, 3):
    want = mask[b, i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
    kind = blocks.kind[b, i, j]
    assert kind == (0 if not want.any() else 2 if want.all() else 1)
    seen.add(int(kind))
    if kind:
      assert blocks.data[b, i, j] == (j if along_keys else i)
    if kind == 1:
      info = blocks.info(num_heads=2)
      assert info.partial_mask_blocks is not None
      pairs = info.partial_mask_blocks[info.mask_next[2 * b + 1, i, j]]
      np.testing.assert_array_equal(pairs if along_keys else pairs.T, want)
  assert {0, 1} <= seen


def test_a_step_without_work_moves_nothing():
  """Causal: past the diagonal the last block stays, before it the first."""
  mask = jnp.tril(jnp.ones((1, 512, 512), bool))
  keys, queries = (Blocks.of(mask, 128, along) for along in (True, False))
  np.testing.assert_array_equal(
    keys.data[0], [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]
  )
  np.testing.assert_array_equal(
    queries.data[0], [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]
  )
  diagonal = np.arange(4)[:, None] * 5 + np.zeros(4, int)
  np.testing.assert_array_equal(keys.partial[0], diagonal)
  np.testing.assert_array_equal(queries.partial[0], diagonal.T)
