"""A config refuses what no Transformer can be."""

import pytest

from restem_jax.models.config import ModelConfig, RopeScaling

SHAPE = {
  'vocab_size': 11,
  'num_layers': 5,
  'embed_dim': 8,
  'mlp_dim': 16,
  'num_heads': 4,
  'num_kv_heads': 2,
  'head_dim': 6,
}


def test_smollm2_has_its_published_size():
  config = ModelConfig(
    vocab_size=49152,
    num_layers=30,
    embed_dim=576,
    mlp_dim=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
  )
  assert config.num_params == 134_515_008


def test_windows_repeat_over_the_layers():
  config = ModelConfig(**SHAPE, windows=(4, 4, 0))
  assert config.layer_windows() == (4, 4, 0, 4, 4)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'num_kv_heads': 3}, 'multiple of num_kv_heads=3'),
    ({'head_dim': 5}, 'head_dim=5 must be even'),
    ({'activation': 'relu'}, 'write "silu" or "gelu_tanh"'),
  ],
)
def test_what_cannot_be_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    ModelConfig(**SHAPE | change)


def test_unknown_rope_scaling_is_named():
  with pytest.raises(ValueError, match='write "linear" or "llama3"'):
    RopeScaling(kind='yarn')
