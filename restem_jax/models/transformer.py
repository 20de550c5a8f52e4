"""The decoder-only Transformer: parameters and forward pass.

In: token ids `[B, T]` and, when decoding, the context of earlier tokens.
Out: hidden states or logits, and the fresh keys and values. `Model` is the
functional face that the rest of the system uses: parameters are a pure nested
dict of arrays with layers stacked on axis 0. Training scans the layers, so
compile time does not grow with depth; inference takes them apart (`extend`),
since a scan would copy each layer's cache in every step. What is *not* here:
sampling, losses, reading weights.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from restem_jax import partitioning
from restem_jax.models import (
  attention,
  cache as cache_lib,
  kernels,
  layers,
  remat as remat_lib,
)
from restem_jax.models.cache import Cache, Context
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

  def __call__(self, x, angles, store):
    eps = self.config.norm_eps
    y = layers.rms_norm(x, self.pre_attention_norm[...], eps)
    y, kept = self.attention(y, angles, store)
    if self.config.post_norms:
      y = layers.rms_norm(y, self.post_attention_norm[...], eps)
    x = partitioning.constrain(x + y, _ACTIVATIONS)
    x = remat_lib.named(x, remat_lib.RESIDUAL)
    y = self.mlp(layers.rms_norm(x, self.pre_mlp_norm[...], eps))
    if self.config.post_norms:
      y = layers.rms_norm(y, self.post_mlp_norm[...], eps)
    return partitioning.constrain(x + y, _ACTIVATIONS), kept


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

  def embedded(self, tokens: Array, dtype: Any) -> Array:
    """Activations `[B, T, D]` that go into the first layer."""
    c = self.config
    x = self.embed.table[...].astype(dtype)[tokens]
    if c.scale_embeddings:
      x = x * jnp.asarray(math.sqrt(c.embed_dim), dtype)
    return partitioning.constrain(x, _ACTIVATIONS)

  def angles(self, positions: Array) -> tuple[Any, Any]:
    """Rotary angles of layers without and with a sliding window."""
    c = self.config
    freqs = layers.rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    angles = layers.rope_angles(positions, freqs)
    if c.rope_local_theta is None:
      return angles, angles
    freqs = layers.rope_frequencies(c.head_dim, c.rope_local_theta, None)
    return angles, layers.rope_angles(positions, freqs)

  def hidden(
    self,
    tokens,
    positions,
    seen_until,
    dtype,
    remat,
    implementation,
    scan_layers,
  ):
    """See `Model.hidden`."""
    c = self.config
    windows = c.layer_windows()
    angles, local_angles = self.angles(positions)
    seen = attention.fresh_mask(tokens.shape[1], seen_until=seen_until)
    distance = positions[:, :, None] - positions[:, None, :]  # [B, T, T]
    if implementation != 'xla':  # a kernel has rows of its own
      seen = jnp.broadcast_to(seen, distance.shape)
    whole = kernels.prepare(implementation, seen)
    graphdef, state = nnx.split(self.layers)

    def layer(x, scanned):
      state, window = scanned
      mask = whole
      if any(windows):
        near = distance < jnp.where(window == 0, _NO_WINDOW, window)
        mask = kernels.prepare(implementation, seen & near)
      which = angles
      if c.rope_local_theta is not None:
        which = tuple(
          jnp.where(window > 0, a, b)
          for a, b in zip(local_angles, angles, strict=True)
        )
      state = jax.tree.map(lambda p: p.astype(dtype), state)
      store = lambda kv: ([attention.Part(kv, mask)], None)
      return nnx.merge(graphdef, state)(x, which, store)

    layer = remat_lib.checkpointed(layer, remat)
    x = self.embedded(tokens, dtype)
    scanned = state, jnp.asarray(windows, jnp.int32)
    x, _ = jax.lax.scan(layer, x, scanned, unroll=not scan_layers)
    return layers.rms_norm(x, self.final_norm[...], c.norm_eps)

  def extend(
    self,
    states,
    tokens,
    positions,
    segment_ids,
    contexts,
    cache,
    num_segments,
    implementation,
  ):
    """See `Model.extend`; `states`: the parameters of each layer."""
    c, dtype = self.config, states[0]['pre_attention_norm'].dtype
    angles, local_angles = self.angles(positions)
    graphdef, _ = nnx.split(self.layers)
    used, length = (), None  # of the cache
    if cache is not None:
      used, length = cache.segments[:num_segments], cache.length

    def mask(at, seen, window):
      """[B, T, S] of keys at positions `at`."""
      if not window:
        return seen
      return seen & (positions[:, :, None] - at[:, None] < window)

    def seen_of(context, window):
      if cache is None or implementation == 'xla':
        return mask(context.positions, context.seen[:, None], window)
      return cache_lib.context_span(context, positions[:, 0], window)

    def own_masks(window):
      """Of fresh tokens, or of the cache's segments."""
      if cache is None:
        fresh = attention.fresh_mask(tokens.shape[1], segment_ids)
        return [mask(positions, fresh, window)]
      if implementation == 'xla':
        views = cache_lib.views(cache, num_segments)
        return [mask(at, seen[:, None], window) for at, seen in views]
      return cache_lib.spans(cache, num_segments, window)

    # Or XLA computes the sines again in every layer.
    angles, local_angles = jax.lax.optimization_barrier((angles, local_angles))

    # One program for all layers of a kind, which XLA inlines: Python traces
    # and lowers one layer instead of L.
    @jax.jit
    def layer(state, x, angles, context, masks, segments, length):
      def store(kv):
        new = (kv,)
        if cache is not None:
          new = cache_lib.append(segments, length, kv.k, kv.v)
        parts = [*context, *map(attention.Part, new, masks)]
        if cache is None and implementation != 'xla':
          parts = [attention.joined(parts, implementation)]
        return parts, new

      return nnx.merge(graphdef, state)(x, angles, store)

    x, kept = self.embedded(tokens, dtype), []
    windows = c.layer_windows()
    own = {w: own_masks(w) for w in set(windows)}
    earlier = {w: [seen_of(each, w) for each in contexts] for w in set(windows)}
    for i, (state, window) in enumerate(zip(states, windows, strict=True)):
      kvs = [context.layers[i] for context in contexts]
      context = [*map(attention.Part, kvs, earlier[window])]
      held = tuple(segment[i] for segment in used)
      which = local_angles if window else angles
      x, new = layer(state, x, which, context, own[window], held, length)
      kept.append(new)
    hidden = layers.rms_norm(x, self.final_norm[...], c.norm_eps)
    if cache is None:
      return hidden, tuple(kv for (kv,) in kept)
    grown = tuple(zip(*kept, strict=True))  # [segment][layer]
    rest = cache.segments[num_segments:]
    return hidden, cache._replace(segments=(*grown, *rest))

  def logits(self, hidden: Array) -> Array:
    """See `Model.logits`."""
    tied = self.config.tied_embeddings
    head = (self.embed.table if tied else self.head)[...].astype(hidden.dtype)
    out: Any = layers.unembed(hidden, head, 'vd' if tied else 'dv')
    return layers.soft_cap(out, self.config.logit_softcap)


def _default_positions(tokens: Array, positions: Array | None) -> Array:
  if positions is not None:
    return positions
  at = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  return jnp.broadcast_to(at[None], tokens.shape)


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

  def unstacked(self, params: Params) -> Params:
    """Compute-dtype parameters with a tuple of the layers' own trees.

    For `extend`: a program that reads whole arrays copies no slices of them.
    """
    params = jax.tree.map(lambda p: p.astype(self.dtype), params)
    return params | {
      'layers': self._each_layer(params['layers'], lambda p, i: p[i])
    }

  def _each_layer(self, tree: Any, fn: Callable[[Any, int], Any]) -> tuple:
    is_axes = lambda x: type(x) is tuple
    return tuple(
      jax.tree.map(lambda p, i=i: fn(p, i), tree, is_leaf=is_axes)
      for i in range(self.config.num_layers)
    )

  def unstacked_axes(self) -> Params:
    """`logical_axes` of `unstacked` parameters."""
    axes = self.logical_axes()
    layers = self._each_layer(axes['layers'], lambda axes, _: axes[1:])
    return axes | {'layers': layers}

  def _module(self, params: Params) -> Transformer:
    if isinstance(params['layers'], tuple):  # unstacked: passed by themselves
      params = params | {'layers': self.abstract_params()['layers']}
    return nnx.merge(self._abstract[0], params)

  def hidden(
    self,
    params: Params,
    tokens: Int[Array, 'B T'],
    positions: Int[Array, 'B T'] | None = None,
    seen_until: Int[Array, 'B T'] | None = None,
    remat: str = 'none',
    implementation: str = 'xla',
    scan_layers: bool = True,
  ) -> Float[Array, 'B T D']:
    """Hidden states of whole sequences, in the compute dtype.

    Args:
      params: stacked parameter tree, any float dtype; cast to the compute
        dtype layer by layer.
      tokens: token ids. They see each other causally by index.
      positions: defaults to 0..T-1.
      seen_until: the index of the first token that no longer sees this one
        (packed examples); all later ones do by default.
      remat: what the backward pass may keep (`remat`).
      implementation: of attention, as `kernels.choose` gives it.
      scan_layers: False makes each layer a program of its own.
    """
    positions = _default_positions(tokens, positions)
    return self._module(params).hidden(
      tokens,
      positions,
      seen_until,
      self.dtype,
      remat,
      implementation,
      scan_layers,
    )

  def extend(
    self,
    params: Params,
    tokens: Int[Array, 'B T'],
    positions: Int[Array, 'B T'] | None = None,
    segment_ids: Int[Array, 'B T'] | None = None,
    contexts: Sequence[Context] = (),
    cache: Cache | None = None,
    num_segments: int | None = None,
    implementation: str = 'xla',
  ) -> tuple[Float[Array, 'B T D'], Any]:
    """Hidden states of tokens behind earlier ones: prefill and decoding.

    Args:
      params: as `unstacked` gives them.
      tokens: fresh token ids. Without a cache they see each other causally by
        index.
      positions: defaults to 0..T-1.
      segment_ids: of the fresh tokens; without a cache only.
      contexts: earlier tokens that are seen as well.
      cache: T is 1 and the fresh token is appended to each row. Lengths stay:
        the caller knows which rows are active.
      num_segments: of the cache that are in use; all by default.
      implementation: of attention, as `kernels.choose` (without a cache) or
        `kernels.choose_decoding` gives it.

    Returns:
      Hidden states after the final norm in the compute dtype; the fresh
      `KV` of every layer `[B, K, T, head_dim]`, or the new cache.
    """
    if cache is not None and num_segments is None:
      num_segments = len(cache.segments)
    return self._module(params).extend(
      params['layers'],
      tokens,
      _default_positions(tokens, positions),
      segment_ids,
      contexts,
      cache,
      num_segments,
      implementation,
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
    seen_until: Int[Array, 'B T'] | None = None,
  ) -> Float[Array, 'B T V']:
    """f32 logits of whole sequences: for references and tests, not speed."""
    hidden = self.hidden(params, tokens, positions, seen_until)
    return self.logits(params, hidden)
