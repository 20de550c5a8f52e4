"""Splash attention: JAX's Pallas kernel for TPUs, under any mask.

In: queries, keys and values of one layer, and the mask that plain attention
takes. Out: the same as that one gives. What is *not* here: when it is taken
(`kernels`).

The kernel knows segments by their equality only, but takes masks as blocks,
and skips those that are empty. So packed rows, shared prefixes and windows
need nothing of their own, and tokens of different examples that are far apart
cost nothing. `[H, T, T]` never exists.
"""

import dataclasses

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash_lib,
  splash_attention_mask_info as mask_lib,
)
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from restem_jax.models import kernels, remat
from restem_jax.models.cache import KV

_LANES = 128  # a block is a multiple


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
  """A mask as the kernel reads it, in steps along keys or along queries.

  Attributes:
    kind: 0 for a block without any pair, 2 for one with all, 1 for others.
    data: the block of keys (or queries) that a step has in memory.
    partial: the block of the mask that it has in memory, within its row.
    pairs: the mask's blocks themselves.
  """

  kind: Int[Array, 'B I J']
  data: Int[Array, 'B I J']
  partial: Int[Array, 'B I J']
  pairs: Bool[Array, 'B I J size size']

  @staticmethod
  def of(mask: Bool[Array, 'B T T'], size: int, along_keys: bool) -> 'Blocks':
    """Blocks of `size` tokens, which divides T."""
    b, t, _ = mask.shape
    n = t // size
    pairs = mask.reshape(b, n, size, n, size).swapaxes(2, 3)
    full, some = pairs.all((-1, -2)), pairs.any((-1, -2))
    axis = 2 if along_keys else 1
    at = jax.lax.broadcasted_iota(jnp.int32, some.shape, axis)
    number = jnp.arange(n * n, dtype=jnp.int32).reshape(1, n, n)
    number = jnp.broadcast_to(number, some.shape)
    return Blocks(
      kind=jnp.where(full, 2, some.astype(jnp.int32)),
      data=_held(at, some, axis),
      partial=_held(number, some & ~full, axis),
      pairs=pairs if along_keys else pairs.swapaxes(-1, -2),
    )

  def info(self, num_heads: int) -> mask_lib.MaskInfo:
    """For B * num_heads heads, row by row."""
    b, i, j = self.kind.shape
    row = jnp.arange(b, dtype=jnp.int32)[:, None, None]
    each = lambda x: jnp.repeat(x, num_heads, axis=0)
    return mask_lib.MaskInfo(
      data_next=each(self.data),
      mask_next=each(self.partial + row * (i * j)),
      block_mask=each(self.kind),
      partial_mask_blocks=self.pairs.reshape(-1, *self.pairs.shape[-2:]),
      q_sequence=None,
    )


def _held(x: Array, used: Array, axis: int) -> Array:
  """Growing numbers `x` where they are used; elsewhere the last used one.

  Before the first it is that one: a number that stays the same is not read
  from memory again.
  """
  last = jax.lax.cummax(jnp.where(used, x, 0), axis)
  first = jnp.where(used, x, x.max()).min(axis, keepdims=True)
  return jnp.maximum(last, jnp.where(used.any(axis, keepdims=True), first, 0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splash(kernels.Kernel):
  """A mask for the kernel.

  Attributes:
    along_keys: its blocks for the forward pass and queries' gradients.
    along_queries: its blocks for the gradients of keys and values.
    size: tokens of a block.
    interpret: instead of compiling for a TPU.
  """

  along_keys: Blocks
  along_queries: Blocks
  size: int
  interpret: bool

  @staticmethod
  def of(
    mask: Bool[Array, 'B T T'], interpret: bool, largest: int = 512
  ) -> 'Splash':
    """For a mask under which each token sees at least itself.

    Args:
      mask: of all rows; T is a multiple of 128.
      interpret: instead of compiling for a TPU.
      largest: tokens of a block at most.
    """
    t = mask.shape[1]
    sizes = range(_LANES, largest + 1, _LANES)
    size = max(n for n in sizes if t % n == 0)
    return Splash(
      along_keys=Blocks.of(mask, size, True),
      along_queries=Blocks.of(mask, size, False),
      size=size,
      interpret=interpret,
    )

  def attend(
    self,
    q: Float[Array, 'B K G T hd'],
    kv: KV,
    scale: float,
    softcap: float | None,
  ) -> Float[Array, 'B K G T hd']:
    n = self.size
    sizes = splash_lib.BlockSizes(
      block_q=n,
      block_kv=n,
      block_q_dkv=n,
      block_kv_dkv=n,
      block_q_dq=n,
      block_kv_dq=n,
    )

    def local(along_keys, along_queries, q, k, v):
      _, num_kv, group, t, hd = q.shape
      info = along_keys.info(num_kv * group)
      kernel = splash_lib.SplashAttentionKernel(
        info,
        info,
        along_queries.info(num_kv * group),
        block_sizes=sizes,
        is_mqa=False,
        save_residuals=False,
        mask_value=splash_lib.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=remat.ATTENTION,
        mask_function=None,
        interpret=self.interpret,
      )
      # Rows are heads like others: no loop around the kernel.
      fold = lambda x: x.reshape(-1, t, hd)
      out = kernel(fold(q), fold(k), fold(v))
      assert isinstance(out, jax.Array)  # no residuals with it
      return out.reshape(q.shape)

    q = q * jnp.asarray(scale, q.dtype)
    masks = (self.along_keys, self.along_queries)
    return kernels.on_mesh(local, len(masks))(*masks, q, kv.k, kv.v)
