"""The decoder-only Transformer: parameters and forward pass.

In: token ids `[B, T]` and, when decoding, the context of earlier tokens.
Out: hidden states or logits, and the fresh keys and values. `Model` is the
functional face that the rest of the system uses: parameters are a pure nested
dict of arrays with layers stacked on axis 0, and the layers run under
`jax.lax.scan`, so compile time does not grow with depth. What is *not* here:
sampling, losses, reading weights.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from restem_jax import partitioning
from restem_jax.models import attention, layers
from restem_jax.models.cache import Context
from restem_jax.models.config import ModelConfig

Params = Any  # nested dict of arrays
_NO_WINDOW = 1 << 30  # tokens
_ACTIVATIONS = ('batch', 'length', 'embed')


class Block(nnx.Module):
  """All L layers, stacked: norm, attention, norm, MLP, with residuals."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    def norm() -> nnx.Param:
      shape = (config.num_layers, config.embed_dim)
      return layers.param(rngs, shape, ('layers', 'embed'))

    self.config = config
    self.pre_attention_norm = norm()
    self.attention = attention.Attention(config, rngs=rngs)
    self.pre_mlp_norm = norm()
    self.mlp = layers.Mlp(config, rngs=rngs)
    if config.post_norms:
      self.post_attention_norm = norm()
      self.post_mlp_norm = norm()

  def __call__(self, x, angles, fresh_mask, context):
    eps = self.config.norm_eps
    y = layers.rms_norm(x, self.pre_attention_norm[...], eps)
    y, kv = self.attention(y, angles, fresh_mask, context)
    if self.config.post_norms:
      y = layers.rms_norm(y, self.post_attention_norm[...], eps)
    x = partitioning.constrain(x + y, _ACTIVATIONS)
    y = self.mlp(layers.rms_norm(x, self.pre_mlp_norm[...], eps))
    if self.config.post_norms:
      y = layers.rms_norm(y, self.post_mlp_norm[...], eps)
    return partitioning.constrain(x + y, _ACTIVATIONS), kv


class Embedding(nnx.Module):
  """The table `[V, D]` that turns token ids into vectors."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    shape = (config.vocab_size, config.embed_dim)
    self.table = layers.param(rngs, shape, ('vocab', 'embed'), shape[1])


class Transformer(nnx.Module):
  """Embedding, stacked layers, final norm, head."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    v, d = config.vocab_size, config.embed_dim
    self.config = config
    self.embed = Embedding(config, rngs=rngs)
    self.layers = Block(config, rngs=rngs)
    self.final_norm = layers.param(rngs, (d,), ('embed',))
    if not config.tied_embeddings:
      self.head = layers.param(rngs, (d, v), ('embed', 'vocab'), d)

  def hidden(
    self, tokens, positions, segment_ids, prefix_ids, contexts, dtype, remat
  ):
    """See `Model.hidden`."""
    c = self.config
    x = self.embed.table[...].astype(dtype)[tokens]
    if c.scale_embeddings:
      x = x * jnp.asarray(math.sqrt(c.embed_dim), dtype)
    x = partitioning.constrain(x, _ACTIVATIONS)

    windows = c.layer_windows()
    freqs = layers.rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    angles = layers.rope_angles(positions, freqs)
    local_angles = angles
    if c.rope_local_theta is not None:
      freqs = layers.rope_frequencies(c.head_dim, c.rope_local_theta, None)
      local_angles = layers.rope_angles(positions, freqs)

    t = tokens.shape[1]
    index = jnp.arange(t, dtype=jnp.int32)
    causal = (index[:, None] >= index[None, :])[None]  # [1, T, T]
    if segment_ids is not None:
      seen = segment_ids[:, :, None] == segment_ids[:, None, :]
      if prefix_ids is not None:
        # Without a prefix, no segment: not that of padding, 0, either.
        prefix_ids = jnp.where(prefix_ids == 0, -1, prefix_ids)
        seen |= prefix_ids[:, :, None] == segment_ids[:, None, :]
      causal = causal & seen
    distance = positions[:, :, None] - positions[:, None, :]  # [B, T, T]
    graphdef, state = nnx.split(self.layers)

    def layer(x, scanned):
      state, window, cached = scanned
      window = jnp.where(window == 0, _NO_WINDOW, window)
      mask, parts = causal, []
      if any(windows):
        mask = causal & (distance < window)
      for context, (k, v) in zip(contexts, cached, strict=True):
        at = jnp.arange(k.shape[2], dtype=jnp.int32)[None, None]  # [1, 1, S]
        seen = at < context.length[:, None, None]
        seen = seen & (positions[:, :, None] - at < window)
        parts.append(attention.Part(k, v, seen))
      which = angles
      if c.rope_local_theta is not None:
        which = tuple(
          jnp.where(window < _NO_WINDOW, a, b)
          for a, b in zip(local_angles, angles, strict=True)
        )
      state = jax.tree.map(lambda p: p.astype(dtype), state)
      x, kv = nnx.merge(graphdef, state)(x, which, mask, parts)
      return x, None if remat is not None else kv

    if remat in _REMAT:
      layer = jax.checkpoint(layer, policy=_REMAT[remat])
    cached = tuple((context.k, context.v) for context in contexts)
    x, kv = jax.lax.scan(
      layer, x, (state, jnp.asarray(windows, jnp.int32), cached)
    )
    return layers.rms_norm(x, self.final_norm[...], c.norm_eps), kv

  def logits(self, hidden: Array) -> Array:
    """See `Model.logits`."""
    if self.config.tied_embeddings:
      table = self.embed.table[...].astype(hidden.dtype)
      out = jnp.einsum(
        '...d,vd->...v', hidden, table, preferred_element_type=jnp.float32
      )
    else:
      out = jnp.einsum(
        '...d,dv->...v',
        hidden,
        self.head[...].astype(hidden.dtype),
        preferred_element_type=jnp.float32,
      )
    return layers.soft_cap(out, self.config.logit_softcap)


# What the backward pass of a layer may keep; 'none' keeps everything.
_REMAT = {
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'full': jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Model:
  """Pure functions of a parameter tree for one architecture.

  Attributes:
    config: the architecture.
    dtype: compute dtype of matmuls; sums, norms and softmax are f32.
  """

  config: ModelConfig
  dtype: Any = jnp.float32

  @functools.cached_property
  def _abstract(self):
    build = lambda: Transformer(self.config, rngs=nnx.Rngs(0))
    return nnx.split(nnx.eval_shape(build))

  def init(self, key: Array) -> Params:
    """Random f32 parameters: normal / sqrt(fan-in), norms one."""
    module = Transformer(self.config, rngs=nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.state(module))

  def abstract_params(self, dtype: Any = jnp.float32) -> Params:
    """The parameter tree as `jax.ShapeDtypeStruct`s."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, dtype),
      nnx.to_pure_dict(self._abstract[1]),
    )

  def logical_axes(self) -> Params:
    """The parameter tree with a tuple of logical axis names per leaf."""
    is_param = lambda x: isinstance(x, nnx.Variable)
    axes = jax.tree.map(
      lambda p: p.get_metadata()['axes'], self._abstract[1], is_leaf=is_param
    )
    return nnx.to_pure_dict(axes)

  def _module(self, params: Params) -> Transformer:
    return nnx.merge(self._abstract[0], params)

  def hidden(
    self,
    params: Params,
    tokens: Int[Array, 'B T'],
    positions: Int[Array, 'B T'] | None = None,
    segment_ids: Int[Array, 'B T'] | None = None,
    prefix_ids: Int[Array, 'B T'] | None = None,
    contexts: Sequence[Context] = (),
    remat: str | None = None,
  ) -> tuple[Float[Array, 'B T D'], tuple[Array, Array] | None]:
    """Hidden states after the final norm, in the compute dtype.

    Args:
      params: parameter tree, any float dtype; cast to the compute dtype
        layer by layer.
      tokens: token ids. Fresh tokens see each other causally by index.
      positions: defaults to 0..T-1.
      segment_ids: tokens see only their own segment (packed examples).
      prefix_ids: the segment that a token sees as well, before its own; 0
        for none.
      contexts: earlier tokens that every fresh token sees up to their length.
      remat: None when decoding: the fresh (k, v) `[L, B, K, T, head_dim]` are
        returned. 'none', 'dots' or 'full' when training: what the backward
        pass may keep; no (k, v).
    """
    if positions is None:
      positions = jnp.broadcast_to(
        jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape
      )
    return self._module(params).hidden(
      tokens,
      positions,
      segment_ids,
      prefix_ids,
      contexts,
      self.dtype,
      remat,
    )

  def logits(
    self, params: Params, hidden: Float[Array, '*B D']
  ) -> Float[Array, '*B V']:
    """f32 logits of hidden states."""
    return self._module(params).logits(hidden)

  def forward(
    self,
    params: Params,
    tokens: Int[Array, 'B T'],
    positions: Int[Array, 'B T'] | None = None,
    segment_ids: Int[Array, 'B T'] | None = None,
  ) -> Float[Array, 'B T V']:
    """f32 logits of whole sequences: for references and tests, not speed."""
    hidden, _ = self.hidden(params, tokens, positions, segment_ids)
    return self.logits(params, hidden)
