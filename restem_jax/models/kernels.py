"""Which implementation of attention whole sequences get.

In: what a recipe says, and the devices; or a mask. Out: an implementation's
name; the mask as it wants it. What is *not* here: what XLA compiles
(`blockwise`) and the TPU's kernel (`splash`).
"""

import abc
from collections.abc import Callable
import dataclasses
import importlib.util
import logging
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from restem_jax import partitioning
from restem_jax.models import blockwise
from restem_jax.models.cache import KV
from restem_jax.models.config import ModelConfig

CHOICES = ('auto', 'xla', 'splash', 'cudnn')
PREFILL_CHOICES = ('xla', 'cudnn')
DECODING_CHOICES = ('auto', 'xla', 'triton')
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

  `auto` takes splash on TPUs, for rows that it can cut into blocks, cudnn on
  NVIDIA's GPUs where it can attend like this, and xla elsewhere.

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
  if choice == 'xla' or (choice == 'auto' and platform == 'cpu'):
    return 'xla'
  refused = lambda why: ValueError(f'attention={choice!r} {why}; leave it out')
  if choice == 'cudnn' or (choice == 'auto' and platform == 'gpu'):
    why = _no_cudnn(platform, config, dtype)
    if choice == 'auto' and row_len % 2:
      why = f'needs rows of an even number of tokens to train, not {row_len}'
    if why is None:
      _log.info('attention: cudnn')
      return 'cudnn'
    if choice == 'cudnn':
      raise refused(why)
    _log.info('attention: plain; cudnn %s', why)
    return 'xla'
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


def choose_decoding(
  choice: str, *, platform: str, dtype: Any, kv_dtype: Any
) -> str:
  """The implementation of decoding that `Model.extend` takes.

  `auto` takes triton (`decoding`) on NVIDIA's GPUs where it can attend like
  this, and xla elsewhere.

  Args:
    choice: one of DECODING_CHOICES.
    platform: as in `choose`.
    dtype: compute dtype.
    kv_dtype: of the cache.

  Returns:
    xla or triton, which a CPU interprets: slow, for tests.

  Raises:
    ValueError: the platform or the dtypes forbid the choice.
  """
  if choice == 'xla' or (choice == 'auto' and platform != 'gpu'):
    return 'xla'
  why = None
  if platform == 'tpu':
    why = 'runs on GPUs, not on a tpu'
  elif jnp.dtype(kv_dtype) != jnp.dtype(dtype):
    why = f'has no cache of {jnp.dtype(kv_dtype)} for {jnp.dtype(dtype)}'
  elif platform == 'gpu':
    why = _too_old()
    if jnp.dtype(dtype) == jnp.float32:
      why = 'computes in bfloat16 only'
  if importlib.util.find_spec('jax.experimental.pallas.triton') is None:
    why = f'needs a backend that jax {jax.__version__} no longer has'
  if why is None:
    _log.info('decoding: triton')
    return 'triton'
  if choice == 'triton':
    raise ValueError(f"decode_attention='triton' {why}; leave it out")
  _log.info('decoding: plain; triton %s', why)
  return 'xla'


def _no_cudnn(platform: str, config: ModelConfig, dtype: Any) -> str | None:
  """Why its flash attention can't be; None: it can."""
  if platform != 'gpu':
    return f'runs on GPUs, not on a {platform}'
  if config.attention_softcap is not None:
    return 'has no soft cap'
  if jnp.dtype(dtype) == jnp.float32:
    return 'computes in bfloat16 only'
  if config.head_dim > 128 or config.head_dim % 8:
    return f'has no heads of {config.head_dim} dimensions'
  return _too_old()


def _too_old() -> str | None:
  """Of kernels that want an Ampere GPU or a later one."""
  found = _compute_capability()
  if not re.fullmatch(r'\d+\.\d+', found) or float(found) < 8:
    return f'needs compute capability 8.0, this GPU has {found}'
  return None


def _compute_capability() -> str:
  """Of the first local device: '9.0'; no number on others than NVIDIA's."""
  return str(getattr(jax.local_devices()[0], 'compute_capability', None))


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
    mask: which tokens see which; each sees at least itself, and none a later
      one. Of all rows, but for xla. S is T, but for cudnn, where queries that
      have more keys are the last ones.
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
        # Which keys of a whole sequence no query needs, the kernel knows by
        # this alone: of a mask it computes all blocks.
        is_causal=mask.shape[-2] == mask.shape[-1],
        scale=scale,
        implementation=self.implementation,
      )
      return out.swapaxes(1, 2).reshape(q.shape)  # kept by `remat` unnamed

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
