"""Which implementation of attention whole sequences get.

In: what a recipe says, and the devices; or a mask. Out: an implementation's
name; the mask as it wants it. What is *not* here: what XLA compiles
(`blockwise`) and the TPU's kernel (`splash`).
"""

import abc
from collections.abc import Callable
import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from restem_jax import partitioning
from restem_jax.models import blockwise, remat
from restem_jax.models.cache import KV
from restem_jax.models.config import ModelConfig

CHOICES = ('auto', 'xla', 'splash', 'cudnn')
PREFILL_CHOICES = ('xla', 'cudnn')
_LANES = 128  # of a TPU
_log = logging.getLogger(__name__)


def check(choice: str) -> None:
  """Raises ValueError: not one of CHOICES."""
  if choice not in CHOICES:
    raise ValueError(f'attention={choice!r}; write one of {", ".join(CHOICES)}')


def choose(
  choice: str, *, platform: str, config: ModelConfig, dtype: Any, row_len: int
) -> str:
  """The implementation that `prepare` takes, of what a recipe says.

  `auto` takes splash on TPUs, for rows that it can cut into blocks, and xla
  elsewhere. Also on GPUs: cudnn has to be asked for.

  Args:
    choice: one of CHOICES.
    platform: 'tpu', 'gpu' or 'cpu', of the devices that will run it.
    config: the architecture.
    dtype: compute dtype.
    row_len: T.

  Returns:
    xla, splash, cudnn, or splash_interpreted: slow, for tests on a CPU.

  Raises:
    ValueError: the platform, the architecture or the rows forbid the choice.
  """
  check(choice)
  if choice == 'xla' or (choice == 'auto' and platform != 'tpu'):
    return 'xla'
  refused = lambda why: ValueError(f'attention={choice!r} {why}; leave it out')
  if choice == 'cudnn':
    if platform != 'gpu':
      raise refused(f'runs on GPUs, not on a {platform}')
    if config.attention_softcap is not None:
      raise refused('has no soft cap')
    if jnp.dtype(dtype) == jnp.float32:
      raise refused('computes in bfloat16 only')
    return 'cudnn'
  if platform not in ('tpu', 'cpu'):
    raise refused(f'runs on TPUs, not on a {platform}')
  if row_len % _LANES:
    why = f'needs rows of a multiple of {_LANES} tokens, not {row_len}'
    if choice == 'splash':
      raise refused(why)
    _log.warning('attention: plain; splash %s (Trainer.row_len)', why)
    return 'xla'
  if platform == 'cpu':
    _log.warning('attention: splash, interpreted: for tests only')
    return 'splash_interpreted'
  _log.info('attention: splash')
  return 'splash'


class Kernel(abc.ABC):
  """A mask, and the kernel that attends under it."""

  @abc.abstractmethod
  def attend(
    self,
    q: Float[Array, 'B K G T hd'],
    kv: KV,
    scale: float,
    softcap: float | None,
  ) -> Float[Array, 'B K G T hd']:
    """As `attention.attend`, of one part."""


def prepare(
  implementation: str, mask: Bool[Array, 'B T S']
) -> Kernel | blockwise.Causal:
  """What `attention.Part` takes as a mask, for an implementation.

  Args:
    implementation: as `choose` gives it, or cudnn_interpreted: what takes
      cudnn's arguments on a CPU, for tests.
    mask: which tokens see which; each sees at least itself. Of all rows, but
      for xla. S is T, but for cudnn.
  """
  if implementation == 'xla':
    return blockwise.Causal(mask)
  if implementation == 'cudnn':
    return Cudnn(mask)
  if implementation == 'cudnn_interpreted':
    return Cudnn(mask, implementation='xla')
  assert implementation in ('splash', 'splash_interpreted'), implementation
  from restem_jax.models import splash  # loads Pallas

  return splash.Splash.of(mask, implementation == 'splash_interpreted')


@dataclasses.dataclass(frozen=True)
class Cudnn(Kernel):
  """A mask for the kernel of NVIDIA's library."""

  mask: Bool[Array, 'B T S']
  implementation: Any = 'cudnn'

  def attend(
    self,
    q: Float[Array, 'B K G T hd'],
    kv: KV,
    scale: float,
    softcap: float | None,
  ) -> Float[Array, 'B K G T hd']:
    assert softcap is None, softcap

    def local(mask, q, k, v):
      b, num_kv, group, t, hd = q.shape
      heads = q.reshape(b, num_kv * group, t, hd)
      out = jax.nn.dot_product_attention(
        *(x.swapaxes(1, 2) for x in (heads, k, v)),
        mask=mask[:, None],
        scale=scale,
        implementation=self.implementation,
      )
      out = out.swapaxes(1, 2).reshape(q.shape)
      return remat.named(out, remat.ATTENTION)

    return on_mesh(local, 1)(self.mask, q, kv.k, kv.v)


def on_mesh(fn: Callable[..., Array], num_masks: int) -> Callable[..., Array]:
  """`fn(*masks, q, k, v)` on each device's rows and heads.

  XLA can't split a kernel by itself. Masks are the same for all heads.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return fn
  rows = partitioning.spec(('batch',))
  heads = partitioning.spec(('batch', 'kv_heads'))
  return jax.shard_map(
    fn,
    in_specs=(*[rows] * num_masks, heads, heads, heads),
    out_specs=heads,
    check_vma=False,
  )
