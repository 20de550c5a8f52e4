"""Small random networks for tests: one per switch of the architecture.

In: fields of a ModelConfig. Out: models and parameters, none of which is at a
value (1 of a norm, 0 of a bias) that would hide a mistake.
"""

import jax
import numpy as np

from restem_jax.models.config import ModelConfig, RopeScaling
from restem_jax.models.transformer import Model

SMALL = {
  'vocab_size': 32,
  'num_layers': 2,
  'embed_dim': 16,
  'mlp_dim': 24,
  'num_heads': 4,
  'num_kv_heads': 2,
  'head_dim': 4,
}

# Every switch on its own, then many at once, as families have them.
SWITCHES = {
  'plain': {},
  'untied': {'tied_embeddings': False},
  'scaled_embeddings': {'scale_embeddings': True},
  'gelu': {'activation': 'gelu_tanh'},
  'qkv_bias': {'qkv_bias': True},
  'qk_norm': {'qk_norm': True},
  'post_norms': {'post_norms': True},
  'query_scale': {'query_scale': 0.9},
  'attention_softcap': {'attention_softcap': 0.5},
  'logit_softcap': {'logit_softcap': 0.7},
  'window': {'windows': (3,)},
  'two_windows': {'windows': (3, 0)},
  'two_thetas': {
    'windows': (3, 0),
    'rope_theta': 1e6,
    'rope_local_theta': 100.0,
  },
  'linear_rope': {'rope_scaling': RopeScaling(factor=4.0)},
  'llama3_rope': {
    'rope_scaling': RopeScaling(kind='llama3', factor=8.0, original_max_len=16)
  },
  'all': {
    'num_layers': 3,
    'tied_embeddings': False,
    'scale_embeddings': True,
    'activation': 'gelu_tanh',
    'qkv_bias': True,
    'qk_norm': True,
    'post_norms': True,
    'query_scale': 0.4,
    'attention_softcap': 2.0,
    'logit_softcap': 3.0,
    'windows': (2, 5, 0),
    'rope_theta': 1e5,
    'rope_local_theta': 50.0,
    'rope_scaling': RopeScaling(factor=2.0),
  },
}


def config(**fields) -> ModelConfig:
  """SMALL with other values for some fields."""
  return ModelConfig(**SMALL | fields)


def random_params(model: Model, seed: int = 0, scale: float = 0.25):
  """f32 parameters; by numpy, so that nothing is compiled for them."""
  rng = np.random.default_rng(seed)

  def leaf(path, shape):
    name = path[-1].key
    if name.endswith('norm'):
      value = rng.uniform(0.5, 1.5, shape.shape)
    else:
      value = rng.normal(0, scale, shape.shape)
    return jax.numpy.asarray(value, np.float32)

  return jax.tree_util.tree_map_with_path(leaf, model.abstract_params())


def build(fields=None, seed: int = 0, dtype=np.float32):
  """(model, f32 parameters)."""
  model = Model(config(**fields or {}), dtype)
  return model, random_params(model, seed, scale=0.5)
