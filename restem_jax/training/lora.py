"""LoRA (arXiv 2106.09685): low-rank updates of frozen weights.

In: an architecture, its frozen weights. Out: adapters (what is trained), a
tree of parameters for the loss, merged weights for everybody else. What is
*not* here: how a layer applies an update (`models.layers.project`).

Not by qwix 0.1.8, though it installs beside our jax: `apply_lora_to_model`
raises in our scan over layers (it keeps random state in the modules, which has
no layer axis), and would make its adapters in the copy inside the scan's body.
"""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from restem_jax import partitioning
from restem_jax.models import layers
from restem_jax.models.transformer import Model, Params

# The linear layers and where they are; `o` has two dimensions that go in.
_GROUPS = {
  **dict.fromkeys(('q', 'k', 'v', 'o'), 'attention'),
  **dict.fromkeys(('gate', 'up', 'down'), 'mlp'),
}
TARGETS = tuple(_GROUPS)

# {'layers': {'attention': {'q': {'a': …, 'b': …}}, 'mlp': …}}, stacked.
Adapters = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
  """Weights are w + (alpha / rank) a b, of which only a and b are trained.

  Attributes:
    rank: columns of a, rows of b.
    alpha: strength of the update; a learning rate that suits one rank suits
      others, since it is divided by the rank (§4.1).
    targets: of TARGETS, the linear layers that get an update.
  """

  rank: int = 16
  alpha: float = 32.0
  targets: tuple[str, ...] = TARGETS

  def __post_init__(self):
    if isinstance(self.targets, str) or not set(self.targets) <= set(TARGETS):
      raise ValueError(
        f'Lora.targets={self.targets!r}; write a list of some of '
        f'{", ".join(TARGETS)}'
      )
    # Their order and number mean nothing; gin gives a list.
    names = tuple(name for name in TARGETS if name in self.targets)
    object.__setattr__(self, 'targets', names)
    if not names:
      raise ValueError(f'Lora.targets is empty; write some of {TARGETS}')
    if not isinstance(self.rank, int) or self.rank < 1:
      raise ValueError(f'Lora.rank={self.rank!r}; write 1 or more')
    if not isinstance(self.alpha, int | float) or self.alpha <= 0:
      raise ValueError(f'Lora.alpha={self.alpha!r}; write more than 0')

  def abstract(self, model: Model) -> Adapters:
    """The adapters as f32 `jax.ShapeDtypeStruct`s."""
    tree = self._from(model.abstract_params(), lambda x: x.shape, self.rank)
    return jax.tree.map(
      lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
      tree,
      is_leaf=lambda x: type(x) is tuple,
    )

  def logical_axes(self, model: Model) -> Adapters:
    """A tuple of logical axis names per adapter: those of its weight."""
    return self._from(model.logical_axes(), lambda axes: axes, 'rank')

  def _from(self, params: Any, dims_of: Any, rank: Any) -> Adapters:
    """Adapters' dimensions from those of the weights, in numbers or names."""
    tree: dict[str, Any] = {}
    for name in self.targets:
      group, cut = _GROUPS[name], _num_in(name)
      layer, *dims = dims_of(params['layers'][group][name])
      tree.setdefault(group, {})[name] = {
        'a': (layer, *dims[:cut], rank),
        'b': (layer, rank, *dims[cut:]),
      }
    return {'layers': tree}

  def init(
    self, model: Model, *, seed: int, iteration: int, mesh: Mesh | None = None
  ) -> Adapters:
    """Fresh adapters: b is 0, so that nothing changes; a normal / sqrt(in).

    The key of a draw is f(seed, iteration, name of the weight): neither the
    mesh nor other targets change it.
    """
    abstract = self.abstract(model)

    def draw():
      base = jax.random.fold_in(jax.random.key(seed), iteration)

      def leaf(path, x):
        *names, which = (key.key for key in path)
        if which == 'b':
          return jnp.zeros(x.shape, x.dtype)
        digest = hashlib.sha256('/'.join(names).encode()).digest()
        word = int.from_bytes(digest[:4], 'little')
        key = jax.random.fold_in(base, word)
        fan_in = math.prod(x.shape[1:-1])
        return jax.random.normal(key, x.shape, x.dtype) / math.sqrt(fan_in)

      return jax.tree_util.tree_map_with_path(leaf, abstract)

    if mesh is None:
      return jax.jit(draw)()
    axes = self.logical_axes(model)
    return jax.jit(draw, out_shardings=partitioning.shardings(mesh, axes))()

  def attached(self, frozen: Params, adapters: Adapters) -> Params:
    """`frozen` with a `LowRank` for each target: what `Model.hidden` takes."""
    scale = self.alpha / self.rank
    return self._updated(
      frozen, adapters, lambda _, w, a, b: layers.LowRank(w, a, scale * b)
    )

  def merged(
    self,
    model: Model,
    frozen: Params,
    adapters: Adapters,
    mesh: Mesh | None = None,
  ) -> Params:
    """Whole parameters: the targets new, the others those of `frozen`.

    Computed in f32, a layer at a time; each has the dtype of its frozen weight.
    """
    axes = model.logical_axes()['layers']

    def add(name, w, a, b):
      out = None
      if mesh is not None:
        out = partitioning.shardings(mesh, axes[_GROUPS[name]][name])
      return _adder(self.alpha / self.rank, out)(w, a, b)

    return self._updated(frozen, adapters, add)

  def _updated(
    self, frozen: Params, adapters: Adapters, new: Callable[..., Any]
  ) -> Params:
    """`frozen` with `new(name, w, a, b)` for each target."""
    tree = dict(frozen['layers'])
    for name in self.targets:
      group = _GROUPS[name]
      w, adapter = tree[group][name], adapters['layers'][group][name]
      w = new(name, w, adapter['a'], adapter['b'])
      tree[group] = tree[group] | {name: w}
    return frozen | {'layers': tree}


def _num_in(name: str) -> int:
  """How many dimensions of a weight are multiplied with activations."""
  return 2 if name == 'o' else 1


@functools.cache
def _adder(scale: float, out: Any) -> Callable[..., jax.Array]:
  """w + scale * a b for stacked layers, a layer at a time; compiled once."""

  def layer(wab):
    w, a, b = wab
    update = jnp.tensordot(a, b, 1, precision='highest')
    return (w.astype(jnp.float32) + scale * update).astype(w.dtype)

  return jax.jit(lambda *wab: jax.lax.map(layer, wab), out_shardings=out)
