"""The programs of a run, lowered without weights.

In: an architecture, the recipe's trainer and sampling settings, devices that
need not be there. Out: `jax.stages.Lowered` of the very functions that a run
jits, with abstract arguments. What is *not* here: compiling them, and what
they cost (`precompile`).
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from restem_jax import partitioning
from restem_jax.em.generate import Sampling
from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.sampling import programs as programs_lib
from restem_jax.sampling.stops import Stops
from restem_jax.training import step as step_lib
from restem_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """A lowered program, and what is known of it before it is compiled."""

  name: str
  lowered: jax.stages.Lowered
  mesh: Mesh
  held: Mapping[str, float]  # bytes per device of arguments, by what they are
  tokens: int  # that one run of it processes, on all devices
  model_flops: float  # that these tokens need, without recomputation


def train(model: Model, trainer: Trainer, row_len: int, mesh: Mesh) -> Program:
  """The train step on a packed batch `[B, T]` of the trainer's size."""
  optimizer, lora = trainer.make_optimizer(1000), trainer.lora
  shardings = step_lib.state_shardings(model, optimizer, mesh, lora)
  params, frozen = model.abstract_params(), None
  if lora is not None:
    params, frozen = lora.abstract(model), model.abstract_params(model.dtype)
  state = step_lib.State(
    jax.ShapeDtypeStruct((), jnp.int32),  # pyright: ignore
    params,
    jax.eval_shape(optimizer.init, params),
    frozen,
  )
  state = jax.tree.map(_placed, state, shardings)
  rows = NamedSharding(mesh, partitioning.spec(('batch', 'length')))
  shape = (trainer.batch_size, row_len)
  batch = {
    name: jax.ShapeDtypeStruct(
      shape,
      jnp.float32 if name == 'weights' else jnp.int32,
      sharding=rows,
    )
    for name in ('tokens', 'positions', 'seen_until', 'weights')
  }
  step: Any = trainer.make_step(model, optimizer, row_len, mesh)
  lowered = step.lower(state, batch)
  trained = bytes_per_device(state.params)
  held = {'optimizer': bytes_per_device(state.opt_state)}
  flops = 3 * forward_flops(model.config, *shape)
  if lora is None:
    held = {'weights': trained} | held
  else:
    weights = bytes_per_device(state.frozen)
    held = {'weights': weights, 'adapters': trained} | held
    # A third of the backward pass's matmuls are gradients of the weights,
    # which adapters alone have.
    size = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    frozen_size = _matmul_params(model.config)
    flops += math.prod(shape) * (6 * size - 2 * frozen_size)
  return Program(
    name='train step',
    lowered=lowered,
    mesh=mesh,
    held=held,
    tokens=math.prod(shape),
    model_flops=flops,
  )


def sampling(
  model: Model,
  settings: Sampling,
  *,
  max_prompt_len: int,
  max_new_tokens: int,
  mesh: Mesh,
) -> list[Program]:
  """Prefill of the longest prompts, and K decode steps of all slots.

  The one place that knows the engine's programs.
  """
  vocab = model.config.vocab_size
  made = programs_lib.Programs(
    model,
    # Tables of a run's size: its stop strings have a few bytes.
    Stops(is_eos=np.zeros(vocab, bool), table=np.zeros((8, vocab), np.int16)),
    programs_lib.Shape(
      max_prompt_len=max_prompt_len,
      max_new_tokens=max_new_tokens,
      num_slots=settings.num_slots,
      steps_per_call=settings.steps_per_call,
      prefill_tokens=settings.prefill_tokens,
      kv_dtype=settings.kv(),
      **settings.implementations(model, mesh, max_prompt_len),
    ),
    mesh,
  )
  steps, b = settings.steps_per_call, settings.num_slots
  length, segments = made.shape.buckets[-1], made.shape.segment_lens
  rows, max_len = made.rows(length), sum(segments)
  lowered = {
    'prefill': made.lower('prefill', length),
    'decode': made.lower('decode', len(segments)),
  }
  params, state = made.params(), made.state()
  weights = {'weights': bytes_per_device(params)}
  held = weights | {'cache': bytes_per_device(state)}
  return [
    Program(
      name=f'prefill of {rows} x {length} tokens',
      lowered=lowered['prefill'],
      mesh=mesh,
      held=weights,
      tokens=rows * length,
      # No logits: the slots feed a prompt's last token.
      model_flops=forward_flops(model.config, rows, length, head=False),
    ),
    Program(
      name=f'decode of {steps} tokens in {b} slots',
      lowered=lowered['decode'],
      mesh=mesh,
      held=held,
      tokens=steps * b,
      model_flops=steps * b * _token_flops(model.config, max_len),
    ),
  ]


def forward_flops(
  config: ModelConfig, batch: int, length: int, head: bool = True
) -> float:
  """FLOPs of the matmuls of one forward pass; attention counted causally.

  2 per weight and token, and 2 * T * H * head_dim per token and layer for the
  logits and the weighted sum of T / 2 visible tokens on average. Embedding
  look-ups, norms and softmax are not counted. Windows are taken into account.
  """
  seen = [min(length / 2, w or length) for w in config.layer_windows()]
  attention = 4 * config.num_heads * config.head_dim * sum(seen)
  matmul = _matmul_params(config) if head else _layer_params(config)
  return batch * length * (2 * matmul + attention)


def _token_flops(config: ModelConfig, length: int) -> float:
  """Of one decoded token that sees `length` tokens."""
  seen = [min(length, w or length) for w in config.layer_windows()]
  attention = 4 * config.num_heads * config.head_dim * sum(seen)
  return 2 * _matmul_params(config) + attention


def _layer_params(config: ModelConfig) -> int:
  d, hd = config.embed_dim, config.head_dim
  heads = 2 * config.num_heads + 2 * config.num_kv_heads
  return config.num_layers * d * (hd * heads + 3 * config.mlp_dim)


def _matmul_params(config: ModelConfig) -> int:
  """Weights that multiply every token: the layers and the head."""
  return _layer_params(config) + config.vocab_size * config.embed_dim


def bytes_per_device(tree: Any) -> float:
  """Bytes of a tree of placed abstract arrays on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def _placed(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
