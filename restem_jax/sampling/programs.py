"""The engine's programs: their shapes, their shardings, and compiling them.

In: a model, the engine's shape, a mesh. Out: programs compiled ahead of time
from shapes alone, and the bytes that their arguments take. What is *not* here:
what they compute (`slots`), and when they run (`engine`).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restem_jax import partitioning
from restem_jax.models import cache
from restem_jax.models.transformer import Model, Params
from restem_jax.sampling import policies, slots as slots_lib
from restem_jax.sampling.stops import Stops

# Logical axes by rank: of the slots' arrays, and of prompts and prefixes,
# whose rows are not split, as every device may need any of them.
_KV = ('batch', 'kv_heads', 'length', 'head_dim')
_SLOTS = {1: _KV[:1], 2: ('batch', 'length'), 3: _KV[:3], 4: _KV}
_PROMPTS = {3: (None, *_KV[1:3]), 4: (None, *_KV[1:])}


class OutOfMemory(ValueError):
  """The device can't hold the engine; says what would shrink it."""


def length_buckets(longest: int) -> tuple[int, ...]:
  """32, 48, 64, 96, ... and `longest`: at most 1.5x padding, few programs."""
  sizes = [32, 48]
  while sizes[-1] < longest:
    sizes.append(sizes[-2] * 2)
  return (*tuple(s for s in sizes if s < longest), longest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """What the programs' shapes follow from.

  Attributes:
    max_prompt_len: longest prompt behind its shared prefix, tokens.
    max_new_tokens: longest rollout, tokens.
    prefix_len: tokens of all shared prefixes together; 0: there is none.
    num_slots: B, rollouts that decode at the same time.
    steps_per_call: K, decode steps between two harvests.
    prefill_tokens: tokens per prefill call; prompts of one length bucket are
      prefilled that many together.
    segment_len: tokens of the cache's first segment (`cache.segment_lens`).
    kv_dtype: of the cache: None for the model's, or e.g. int8.
    prefill_attention: its implementation, of `kernels.choose`.
    decode_attention: of `kernels.choose_decoding`.
  """

  max_prompt_len: int
  max_new_tokens: int
  prefix_len: int = 0
  num_slots: int = 64
  steps_per_call: int = 8
  prefill_tokens: int = 512
  segment_len: int = 128
  kv_dtype: Any = None
  prefill_attention: str = 'xla'
  decode_attention: str = 'xla'

  @property
  def buckets(self) -> tuple[int, ...]:
    """Lengths of prefilled prompts, whose last token stays out."""
    return length_buckets(max(1, self.max_prompt_len - 1))

  @property
  def segment_lens(self) -> tuple[int, ...]:
    """Of the cache: the last token of a rollout is never fed."""
    # In steps of 32, for alignment.
    longest = -(-(self.max_prompt_len - 1 + self.max_new_tokens) // 32) * 32
    if self.decode_attention != 'xla':
      return (longest,)  # the kernel reads only what a row holds
    return cache.segment_lens(longest, self.segment_len)

  def no_fill(self) -> slots_lib.Fill:
    """Numpy arrays to be filled in, for one call of insert."""
    # A call costs what its rows cost, filled or not; refills are few at once.
    rows = min(self.num_slots, max(8, self.num_slots // 8))
    zeros: dict[str, np.ndarray] = {
      name: np.zeros(rows, np.int32) for name in slots_lib.Fill._fields
    }
    zeros['words'] = np.zeros((rows, 2), np.uint32)
    zeros['slots'] += self.num_slots
    return slots_lib.Fill(**zeros)  # pyright: ignore


class Programs:
  """Compiled programs of one model and shape, by kind and size."""

  def __init__(
    self, model: Model, stops: Stops, shape: Shape, mesh: Any | None
  ):
    """Compiles and allocates nothing yet.

    Raises:
      ValueError: the slots don't divide by the mesh.
    """
    self.model, self.stops, self.shape, self.mesh = model, stops, shape, mesh
    self.kv_dtype = jnp.dtype(shape.kv_dtype or model.dtype)
    self._parts = 1
    if mesh is not None:
      self._parts = parts = partitioning.batch_parts(mesh)
      if shape.num_slots % parts:
        raise ValueError(
          f'{shape.num_slots} slots do not divide over the {parts} parts of '
          'the mesh axes data and fsdp; write generate.Sampling.num_slots='
          f'{-(-shape.num_slots // parts) * parts}'
        )
    self.compiled: dict[tuple[str, int], Callable[..., Any]] = {}
    self._unstack = jax.jit(
      model.unstacked, out_shardings=self._param_shardings()
    )
    self._empty = jax.jit(
      self._make_empty, out_shardings=self._shardings(self.state(), _SLOTS)
    )

  def __len__(self) -> int:
    jitted: Any = (self._unstack, self._empty)
    return len(self.compiled) + sum(fn._cache_size() for fn in jitted)

  def rows(self, bucket: int) -> int:
    """Prompts per prefill call, a multiple of the parts of the mesh.

    A function of the bucket alone: the shape of the call, and with it the
    rounding of a prompt's keys, does not depend on the prompt's neighbours.
    """
    rows = max(1, self.shape.prefill_tokens // bucket)
    return -(-rows // self._parts) * self._parts

  def keys(self) -> list[tuple[str, int]]:
    """Every (kind, size) that sampling may run; first what it always does."""
    shape = self.shape
    keys = [('prefix', 0)] if shape.prefix_len else []
    # Some prompt is as long as the largest bucket, and all start at decode 1.
    largest, *buckets = reversed(shape.buckets)
    keys += [('prefill', largest), ('insert', largest), ('decode', 1)]
    keys += [(k, b) for b in buckets for k in ('prefill', 'insert')]
    return keys + [('decode', n) for n in range(2, len(shape.segment_lens) + 1)]

  def lower(self, kind: str, size: int) -> jax.stages.Lowered:
    """Traces one of `keys`; nothing is allocated."""
    model, shape = self.model, self.shape
    donate: tuple[int, ...] = ()
    axes, rows = _PROMPTS, self.rows(size) if size else 1
    ints = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.int32)
    scalar = np.uint32(0)
    kernel = {'implementation': shape.prefill_attention}
    if kind == 'prefix':
      fn = functools.partial(slots_lib.prefill_prefix, model, **kernel)
      args = (self.params(), *[ints(1, shape.prefix_len)] * 3)
    elif kind == 'prefill':
      fn = functools.partial(slots_lib.prefill, model, **kernel)
      tokens = (ints(rows, size), ints(rows), ints(rows))
      tokens = self._abstract(tokens, _SLOTS)
      args = (self.params(), *tokens, self._prefix())
    elif kind == 'insert':
      fn, donate, axes = slots_lib.insert, (0,), _SLOTS
      fill = (shape.no_fill(), scalar, scalar)
      args = (self.state(), self._prompts(rows, size), *fill)
    else:
      assert kind == 'decode', kind
      fn = functools.partial(
        slots_lib.decode,
        model,
        shape.steps_per_call,
        size,
        implementation=shape.decode_attention,
      )
      donate, axes = (1,), _SLOTS
      tail = (policies.GREEDY.scalars(), (self.stops.is_eos, self.stops.table))
      args = (self.params(), self.state(), self._prefix(), *tail)
    out = self._shardings(jax.eval_shape(fn, *args), axes)
    jitted = jax.jit(fn, donate_argnums=donate, out_shardings=out)
    # The prefixes' one row can't be split as activations of a mesh are.
    if self.mesh is None or kind == 'prefix':
      return jitted.lower(*args)
    with jax.set_mesh(self.mesh):
      return jitted.lower(*args)

  def run(self, kind: str, size: int, *args):
    """Runs a program, compiling it if it is not there yet."""
    self._compile((kind, size))
    return self.compiled[kind, size](*args)

  def compile(self) -> None:
    """Compiles all of `keys`."""
    for key in self.keys():
      self._compile(key)

  @contextlib.contextmanager
  def compiling(self) -> Iterator[None]:
    """Compiles `keys` beside what is done meanwhile; it ends with the block.

    Weights take as long to load, and need other parts of a machine. What has
    not begun by then is compiled when it is wanted.
    """
    ended = threading.Event()

    def work() -> None:
      for key in self.keys():
        if not ended.is_set():
          self._compile(key)

    with futures.ThreadPoolExecutor(1) as pool:
      working = pool.submit(work)
      try:
        yield
      finally:
        ended.set()
    working.result()

  def _compile(self, key: tuple[str, int]) -> None:
    if key not in self.compiled:
      self.compiled[key] = self.lower(*key).compile()

  def prepare(self, params: Params) -> Params:
    """`Model.unstacked` parameters, sharded; as they are if they are that."""
    if isinstance(params['layers'], tuple):
      return params
    return self._unstack(params)

  def put(self, tree: Any) -> Any:
    """Host arrays on the device, whole on each device of the mesh."""
    return jax.device_put(tree, self._sharding(()))

  def empty_state(self) -> slots_lib.State:
    """Idle slots."""
    # Waited for: what can't be allocated is to be known here.
    return jax.block_until_ready(self._empty())

  def num_bytes(self) -> dict[str, int]:
    """Computed bytes on all devices together, by what they are for."""
    size = lambda tree: sum(
      x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
    prompts = self._prompts(1, self.shape.prefill_tokens)
    return {
      'weights': size(self.model.abstract_params(self.model.dtype)),
      'kv': size(self.state().cache),
      'prefix': size(self._prefix()),
      'prompts': size(prompts),
      'logits': self.shape.num_slots * self.model.config.vocab_size * 4,
    }

  @contextlib.contextmanager
  def explained(self) -> Iterator[None]:
    """Turns an allocation that failed, here or late, into `OutOfMemory`."""
    try:
      yield
    except jax.errors.JaxRuntimeError as e:
      if 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      sizes = ', '.join(
        f'{name} {n / 2**30:.2f}' for name, n in self.num_bytes().items()
      )
      shape = self.shape
      raise OutOfMemory(
        f'sampling does not fit into memory; GiB computed: {sizes}. Lower '
        f'num_slots ({shape.num_slots}) or prefill_tokens '
        f'({shape.prefill_tokens}), shorten max_new_tokens '
        f'({shape.max_new_tokens}) or prompts ({shape.max_prompt_len}), or '
        f'take a smaller dtype ({jnp.dtype(self.model.dtype)}; cache: '
        f'{self.kv_dtype}, e.g. int8)'
      ) from e

  # Shapes and shardings of the arguments.

  def params(self) -> Params:
    """Abstract parameters as `prepare` gives them."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      jax.eval_shape(self.model.unstacked, self.model.abstract_params()),
      self._param_shardings(),
      is_leaf=lambda x: x is None,
    )

  def _param_shardings(self):
    is_axes = lambda x: (
      type(x) is tuple and all(isinstance(axis, str) for axis in x)
    )
    return jax.tree.map(
      self._sharding, self.model.unstacked_axes(), is_leaf=is_axes
    )

  def _make_empty(self) -> slots_lib.State:
    shape = self.shape
    return slots_lib.empty(
      self.model,
      shape.num_slots,
      shape.segment_lens,
      shape.max_new_tokens,
      self.kv_dtype,
    )

  def state(self) -> slots_lib.State:
    """Abstract slots."""
    return self._abstract(jax.eval_shape(self._make_empty), _SLOTS)

  def _prompts(self, rows: int, length: int) -> tuple[cache.KV, ...]:
    c = self.model.config
    x = jax.ShapeDtypeStruct(
      (rows, c.num_kv_heads, length, c.head_dim), jnp.dtype(self.model.dtype)
    )
    return self._abstract(
      (cache.KV(x, x),)  # pyright: ignore
      * c.num_layers,
      _PROMPTS,
    )

  def _prefix(self) -> slots_lib.Prefix | None:
    n = self.shape.prefix_len
    if not n:
      return None
    at = jax.ShapeDtypeStruct((1, n), jnp.int32)
    at = self._abstract(at, _PROMPTS)
    return slots_lib.Prefix(self._prompts(1, n), at, at)

  def _sharding(self, axes: Sequence[str | None]):
    if self.mesh is None:
      return None
    return jax.sharding.NamedSharding(self.mesh, partitioning.spec(axes))

  def _shardings(self, tree, axes_by_rank):
    return jax.tree.map(
      lambda x: self._sharding(axes_by_rank.get(x.ndim, ())), tree
    )

  def _abstract(self, tree, axes_by_rank):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=self._sharding(axes_by_rank.get(x.ndim, ()))
      ),
      tree,
    )
