"""The programs that a run would jit, counted by hand and by their text."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from restem_jax.em import hlo, programs
from restem_jax.em.generate import Sampling
from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.partitioning import MeshShape
from restem_jax.training import optimizers
from restem_jax.training.lora import Lora
from restem_jax.training.trainer import Trainer

FIELDS = {
  'vocab_size': 512,
  'num_layers': 3,
  'embed_dim': 128,
  'mlp_dim': 384,
  'num_heads': 8,
  'num_kv_heads': 4,
  'head_dim': 32,
}
CONFIG = ModelConfig(**FIELDS)
T = 64


def text_flops(program):
  """As the text asks for, loops in full, on all devices."""
  cost = hlo.cost(program.lowered.as_text('hlo'))
  assert not cost.unknown_loops
  return cost.flops


def trained(*, config=CONFIG, mesh=None, **kwargs):
  trainer = Trainer(
    **{'batch_size': 8, 'optimizer': optax.adamw} | kwargs,
    schedule=optimizers.constant,
  )
  mesh = (mesh or MeshShape(data=1, fsdp=-1)).make()
  return programs.train(Model(config, jnp.bfloat16), trainer, T, mesh)


def full_attention(config, batch, length):
  """What the text has on top: it multiplies masked positions as well."""
  half = 2 * config.num_heads * config.head_dim * length
  return batch * length * config.num_layers * half


@pytest.mark.parametrize('tied', [True, False])
def test_forward_flops_are_those_of_the_program(tied):
  config = ModelConfig(**FIELDS, tied_embeddings=tied)
  model = Model(config)
  tokens = jax.ShapeDtypeStruct((2, T), jnp.int32)
  lowered = jax.jit(model.forward).lower(model.abstract_params(), tokens)
  counted = hlo.cost(lowered.as_text('hlo')).flops
  want = programs.forward_flops(config, 2, T) + full_attention(config, 2, T)
  assert counted == want


@pytest.mark.parametrize('num_microbatches', [1, 4])
@pytest.mark.parametrize('remat', ['none', 'full'])
def test_the_train_step_adds_up(num_microbatches, remat):
  """Layers, microbatches and chunks of the vocabulary: within 10 %."""
  rows = 32
  program = trained(
    batch_size=rows, num_microbatches=num_microbatches, remat=remat
  )
  forward = programs.forward_flops(CONFIG, rows, T)
  forward += full_attention(CONFIG, rows, T)
  assert program.model_flops < 3 * forward
  # The head is computed again in the backward pass in any case, and with
  # 'full' so are the layers.
  head = 2 * rows * T * CONFIG.vocab_size * CONFIG.embed_dim
  want = 3 * forward + (forward if remat == 'full' else head)
  np.testing.assert_allclose(text_flops(program), want, rtol=0.1)


def test_more_layers_cost_what_a_layer_costs():
  deep = ModelConfig(**FIELDS | {'num_layers': 12})
  grown = text_flops(trained(config=deep)) - text_flops(trained())
  forward = lambda c: programs.forward_flops(c, 8, T) + full_attention(c, 8, T)
  want = 3 * (forward(deep) - forward(CONFIG))
  np.testing.assert_allclose(grown, want, rtol=0.1)


def test_windows_cost_less():
  near = ModelConfig(**FIELDS, windows=(16, 0, 0))
  far = programs.forward_flops(CONFIG, 1, T)
  per_pair = 4 * CONFIG.num_heads * CONFIG.head_dim
  assert far - programs.forward_flops(near, 1, T) == T * per_pair * (32 - 16)


@pytest.mark.parametrize(
  ('mesh', 'parts'),
  [(MeshShape(data=1, fsdp=-1), 8), (MeshShape(), 1)],
  ids=['fsdp', 'data'],
)
def test_memory_that_is_held(mesh, parts):
  """f32 weights and two moments, split over fsdp, whole over data."""
  held = trained(mesh=mesh).held
  weights = 4 * CONFIG.num_params / parts
  assert held['weights'] == weights
  np.testing.assert_allclose(held['optimizer'], 2 * weights, rtol=1e-3)


LORA = Lora(rank=8)
ADAPTERS = sum(x.size for x in jax.tree.leaves(LORA.abstract(Model(CONFIG))))


def test_adapters_cost_less():
  """A third of the matmuls, the weights' gradients, is not there."""
  rows = 32
  program = trained(batch_size=rows, lora=LORA)
  head = CONFIG.vocab_size * CONFIG.embed_dim
  forward = programs.forward_flops(CONFIG, rows, T)
  matmuls = CONFIG.num_params - CONFIG.num_layers * 2 * CONFIG.embed_dim
  matmuls -= CONFIG.embed_dim  # norms; the table is the head
  want = 3 * forward + rows * T * (6 * ADAPTERS - 2 * matmuls)
  assert program.model_flops == want
  # On top: masked positions, and the head a second time.
  want += 3 * full_attention(CONFIG, rows, T) + 2 * rows * T * head
  np.testing.assert_allclose(text_flops(program), want, rtol=0.1)


def test_memory_that_adapters_hold():
  """bf16 weights, f32 adapters and two moments of them."""
  held = trained(lora=LORA, mesh=MeshShape()).held
  assert held['weights'] == 2 * CONFIG.num_params
  assert held['adapters'] == 4 * ADAPTERS
  np.testing.assert_allclose(held['optimizer'], 8 * ADAPTERS, rtol=1e-3)


def test_sampling():
  found = programs.sampling(
    Model(CONFIG, jnp.bfloat16),
    Sampling(num_slots=16, steps_per_call=4, prefill_tokens=128),
    max_prompt_len=33,  # the last token is the slots'
    max_new_tokens=31,
    mesh=MeshShape(tensor=4).make(),
  )
  prefill, decode = found
  assert prefill.name == 'prefill of 4 x 32 tokens'
  assert decode.name == 'decode of 4 tokens in 16 slots'
  assert (prefill.tokens, decode.tokens) == (128, 64)
  cache = 2 * 2 * 3 * 4 * 16 * 64 * 32 / 8  # k, v; bf16; L K B S hd; devices
  assert cache < decode.held['cache'] < 1.1 * cache
  # Every slot attends to the whole cache, which is what the formula has.
  np.testing.assert_allclose(text_flops(decode), decode.model_flops, rtol=0.1)


def test_slots_and_prompts_go_over_the_data_axis():
  def lower(num_slots):
    return programs.sampling(
      Model(CONFIG),
      Sampling(num_slots=num_slots, steps_per_call=4, prefill_tokens=64),
      max_prompt_len=33,  # the last token is the slots'
      max_new_tokens=31,
      mesh=MeshShape().make(),
    )

  assert lower(16)[0].name == 'prefill of 8 x 32 tokens'
  with pytest.raises(ValueError, match=r'12 slots .*num_slots=16'):
    lower(12)
