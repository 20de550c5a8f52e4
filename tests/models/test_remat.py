"""The backward pass keeps what the setting names, and nothing else."""

import jax
import jax.numpy as jnp
import networks
import pytest

from restem_jax.models import remat
from restem_jax.models.transformer import Model

B, T, L, D = 3, 8, 2, 16
HEADS, KV_HEADS, MLP = 4 * 4, 2 * 4, 24  # numbers per token


def kept(setting, implementation='xla', num_tokens=T):
  """Numbers per token and layer that the forward pass hands on."""
  model, params = networks.build()
  tokens = jnp.zeros((B, num_tokens), jnp.int32)

  def run(params):
    hidden = model.hidden(
      params, tokens, remat=setting, implementation=implementation
    )
    return hidden.sum()

  backward = jax.eval_shape(lambda p: jax.vjp(run, p)[1], params)
  leaves = [x for x in jax.tree.leaves(backward) if x.shape[:1] == (L,)]
  sizes = [x.size for x in leaves if num_tokens in x.shape[1:]]
  return sum(sizes) / (L * B * num_tokens)


@pytest.mark.parametrize(
  ('setting', 'more'),
  [
    ('full', 0),
    ('qkv', HEADS + 2 * KV_HEADS),
    ('attention', HEADS + 4),  # and a log-sum per head
    ('residual', D),
    ('mlp', 2 * MLP),
    ('qkv, attention,residual,mlp', 2 * HEADS + 4 + 2 * KV_HEADS + D + 2 * MLP),
  ],
)
def test_what_is_kept(setting, more):
  """Besides the activations that come into each layer."""
  assert kept(setting) == D + more


def test_everything_and_nothing():
  assert kept('none') > kept('dots') > kept('full')


def test_a_kernel_keeps_its_sums_with_its_output():
  """One log-sum per head: without it, it would run again."""
  got = kept('attention', 'splash_interpreted', num_tokens=128)
  assert got == D + HEADS + 4


def test_cudnn_keeps_its_sums_with_its_output(monkeypatch):
  """JAX's own kernel, traced only: it runs on GPUs."""
  cudnn = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')
  monkeypatch.setattr(cudnn, 'check_cudnn_version', lambda: 91200)
  monkeypatch.setattr(cudnn, 'check_compute_capability', lambda _: None)
  model, params = networks.build({'head_dim': 16})
  model = Model(model.config, jnp.bfloat16)
  tokens = jnp.zeros((B, 128), jnp.int32)

  def shapes(setting):
    run = lambda p: model.hidden(
      p, tokens, remat=setting, implementation='cudnn'
    ).sum()
    backward = jax.eval_shape(lambda p: jax.vjp(run, p)[1], params)
    return [x.shape for x in jax.tree.leaves(backward) if 128 in x.shape[1:]]

  sums, output = (L, B, 4, 128), (L, B, 128, 4, 16)
  assert sorted(shapes('attention')) == sorted([*shapes('full'), sums, output])
  assert sums in shapes('dots')
  assert sums not in shapes('qkv')


@pytest.mark.parametrize('setting', ['', 'qvk', 'full,mlp', 'qkv;mlp'])
def test_a_setting_that_cannot_be(setting):
  with pytest.raises(ValueError, match='what to keep, some of qkv, attention'):
    remat.check(setting)
