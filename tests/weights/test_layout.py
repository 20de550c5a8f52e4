"""Layouts: stored `[out, in]` matrices into ours, by hand."""

import numpy as np
import pytest

from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.weights import layout

CONFIG = ModelConfig(
  vocab_size=7,
  num_layers=1,
  embed_dim=3,
  mlp_dim=5,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  tied_embeddings=False,
  qkv_bias=True,
  qk_norm=True,
  post_norms=True,
)


def stored(path):
  shape = layout.stored_shape(path, CONFIG)
  return np.arange(np.prod(shape)).reshape(shape)


def test_every_parameter_gets_the_shape_that_the_model_asks_for():
  abstract = Model(CONFIG).abstract_params()
  paths = []

  def check(tree, path):
    if isinstance(tree, dict):
      for key, value in tree.items():
        check(value, (*path, key))
      return
    paths.append(path)
    shape = tree.shape[1:] if path[0] == 'layers' else tree.shape
    ours = layout.to_ours(path, stored(path), CONFIG)
    assert ours.shape == shape, path
    back = layout.to_stored(path, ours, CONFIG)
    np.testing.assert_array_equal(back, stored(path))

  check(abstract, ())
  assert len(paths) == 19


@pytest.mark.parametrize(
  'name, ours, theirs',
  [
    ('q', (2, 1, 3), (1 * 4 + 3, 2)),  # [D, H, hd] of [H * hd, D]
    ('o', (1, 3, 2), (2, 1 * 4 + 3)),  # [H, hd, D] of [D, H * hd]
    ('q_bias', (1, 3), (1 * 4 + 3,)),
    ('gate', (2, 4), (4, 2)),
    ('down', (4, 2), (2, 4)),
    ('head', (2, 6), (6, 2)),
    ('table', (6, 2), (6, 2)),
    ('final_norm', (2,), (2,)),
  ],
)
def test_elements(name, ours, theirs):
  x = stored((name,))
  assert layout.to_ours((name,), x, CONFIG)[ours] == x[theirs]
