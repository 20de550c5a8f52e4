"""Mesh, and the one table that maps logical axes onto it.

In: logical axis names of parameters and activations; host arrays. Out:
shardings; global arrays. What is *not* here: collectives (XLA inserts them)
and process start-up (`multihost`).

A rule maps a logical axis to a mesh axis or None. Two logical axes of one
array that map to the same mesh axis collide and raise: silently replicating
one of them would only show as a slow run.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

MESH_AXES = ('data', 'fsdp', 'tensor')

# Logical axis -> mesh axis (or several). Everything the models name is here.
RULES: Mapping[str, str | tuple[str, ...] | None] = {
  'batch': ('data', 'fsdp'),
  'length': None,
  'layers': None,
  'vocab': 'tensor',
  'embed': 'fsdp',
  'mlp': 'tensor',
  'heads': 'tensor',
  'kv_heads': 'tensor',
  'head_dim': None,
  'rank': None,  # of low-rank updates
  # The loss turns `fsdp` from the rows of a chunk to its logits.
  'loss_batch': 'data',
  'loss_vocab': ('fsdp', 'tensor'),
}
# Activations keep `embed` whole: `fsdp` already splits their batch.
ACTIVATION_RULES = {**RULES, 'embed': None}


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[Any] | None = None,  # of jax.Device
) -> Mesh:
  """A mesh over `devices` with axes data, fsdp, tensor; one may be -1.

  Raises:
    ValueError: a size is neither positive nor -1, or the sizes do not multiply
      to the number of devices.
  """
  if devices is None:
    # Each process's devices side by side: `tensor` and `fsdp`, which talk
    # most, stay inside a host as far as they can.
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  sizes = [data, fsdp, tensor]
  if any(size < 1 and size != -1 for size in sizes):
    raise ValueError(
      f'mesh data={data} fsdp={fsdp} tensor={tensor}: write positive sizes, or '
      '-1 for one of them: what the others leave'
    )
  known = int(np.prod([s for s in sizes if s != -1]))
  if sizes.count(-1) > 1 or (-1 in sizes and len(devices) % known):
    raise ValueError(
      f'mesh data={data} fsdp={fsdp} tensor={tensor} does not divide '
      f'{len(devices)} devices; set at most one of them to -1'
    )
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if int(np.prod(sizes)) != len(devices):
    raise ValueError(
      f'mesh data={sizes[0]} fsdp={sizes[1]} tensor={sizes[2]} needs '
      f'{int(np.prod(sizes))} devices, there are {len(devices)}; set one of '
      'them to -1'
    )
  return Mesh(np.asarray(devices).reshape(sizes), MESH_AXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
  """The mesh of a run: a size per axis, one of which may be -1: the rest.

  Attributes:
    data: copies of the model; each takes its part of a batch.
    fsdp: parameters and optimizer state are split over it, and the batch too.
    tensor: heads, mlp and vocabulary are split over it.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1

  def make(self, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices`, by default all of all hosts.

    Raises:
      ValueError: as `make_mesh`.
    """
    return make_mesh(self.data, self.fsdp, self.tensor, devices)

  def make_local(self) -> Mesh:
    """The mesh over this process's devices, for work that hosts share out.

    `tensor` is kept, `fsdp` as far as the host's devices go, and `data` takes
    what is left.

    Raises:
      ValueError: `tensor` does not divide the host's devices.
    """
    if jax.process_count() == 1:
      return self.make()
    devices = sorted(jax.local_devices(), key=lambda d: d.id)
    left, rest = divmod(len(devices), self.tensor)
    if self.tensor < 1 or rest:
      raise ValueError(
        f'mesh tensor={self.tensor} does not divide the {len(devices)} devices '
        'of a host, on which it samples; write a tensor that does, and fsdp '
        'for the rest'
      )
    fsdp = left if self.fsdp == -1 else math.gcd(self.fsdp, left)
    return make_mesh(-1, fsdp, self.tensor, devices)


def spec(
  axes: Sequence[str | None],
  rules: Mapping[str, str | tuple[str, ...] | None] = RULES,
) -> PartitionSpec:
  """The PartitionSpec of an array with these logical axes.

  Raises:
    ValueError: an axis has no rule, or two axes share a mesh axis.
  """
  used: dict[str, str] = {}
  out = []
  for axis in axes:
    if axis is not None and axis not in rules:
      raise ValueError(f'logical axis {axis!r} has no rule; add it to RULES')
    target = None if axis is None else rules[axis]
    names = (target,) if isinstance(target, str) else target or ()
    for name in names:
      if name in used:
        raise ValueError(
          f'logical axes {used[name]!r} and {axis!r} of {tuple(axes)} both '
          f'map to mesh axis {name!r}; map one of them to None'
        )
      used[name] = str(axis)
    out.append(target)
  return PartitionSpec(*out)


def shardings(mesh: Mesh, axes_tree: Any) -> Any:
  """NamedShardings for a tree whose leaves are tuples of logical axes."""
  return jax.tree.map(
    lambda axes: NamedSharding(mesh, spec(axes)),
    axes_tree,
    is_leaf=lambda x: type(x) is tuple,  # a NamedTuple is a node
  )


def check_divides(mesh: Mesh, axes_tree: Any, abstract: Any) -> None:
  """Refuses a mesh whose axes do not divide the parameters' dimensions.

  Args:
    mesh: of the run.
    axes_tree: a tuple of logical axes per leaf.
    abstract: the same tree of shapes.

  Raises:
    ValueError: names the parameter, its dimension and the mesh axis.
  """
  is_axes = lambda x: type(x) is tuple
  leaves, tree = jax.tree_util.tree_flatten_with_path(
    axes_tree, is_leaf=is_axes
  )
  shapes = tree.flatten_up_to(abstract)
  for (path, axes), leaf in zip(leaves, shapes, strict=True):
    for axis, size, target in zip(axes, leaf.shape, spec(axes), strict=True):
      if target is not None and size % mesh.shape[target]:
        name = '/'.join(key.key for key in path)
        raise ValueError(
          f'{name} has {size} {axis}, which mesh {target}='
          f'{mesh.shape[target]} does not divide; write a {target} that does'
        )


def platform(mesh: Mesh | None) -> str:
  """'tpu', 'gpu' or 'cpu': of a mesh's devices; None: of the default ones."""
  if mesh is None:
    return jax.default_backend()
  return mesh.devices.flat[0].platform


def batch_parts(mesh: Mesh) -> int:
  """How many parts a batch is split into."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def local_rows(mesh: Mesh, num_rows: int) -> list[int]:
  """The rows of a batch that this process's devices hold, in order."""
  sharding = NamedSharding(mesh, spec(('batch',)))
  indices = sharding.addressable_devices_indices_map((num_rows,)).values()
  held = {i for index in indices if index for i in range(num_rows)[index[0]]}
  return sorted(held)


def global_batch(
  mesh: Mesh, batch: Mapping[str, np.ndarray], num_rows: int
) -> dict[str, jax.Array]:
  """Arrays over all hosts `[num_rows, ...]` of what each host has.

  Args:
    mesh: of the run.
    batch: this process's `local_rows`.
    num_rows: rows of all hosts' batch; a multiple of `batch_parts`.
  """
  sharding = NamedSharding(mesh, spec(('batch', None)))
  return {
    name: jax.make_array_from_process_local_data(
      sharding, x, (num_rows, *x.shape[1:])
    )
    for name, x in batch.items()
  }


def to_local(tree: Any, mesh: Mesh, axes_tree: Any) -> Any:
  """A copy of a global tree on each process's own `make_local` mesh.

  Every process must call it: hosts exchange what they lack. With one process
  it is the tree itself, since its mesh is the run's.

  Args:
    tree: arrays over all hosts, on a mesh of `MeshShape.make`.
    mesh: `MeshShape.make_local` of the same shape.
    axes_tree: the logical axes of each leaf.
  """
  num = jax.process_count()
  if num == 1:
    return tree
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  shape = (num, *mesh.devices.shape)
  # One more axis in front, over which nothing is split: a copy per host.
  hosts = Mesh(np.asarray(devices).reshape(shape), ('host', *MESH_AXES))
  copied = jax.jit(lambda x: x, out_shardings=shardings(hosts, axes_tree))(tree)
  return jax.tree.map(
    lambda x, sharding: jax.make_array_from_single_device_arrays(
      x.shape, sharding, [shard.data for shard in x.addressable_shards]
    ),
    copied,
    shardings(mesh, axes_tree),
  )


def constrain(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
  """Constrains an activation's sharding; nothing to do without a mesh."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes, ACTIVATION_RULES))


def num_shards(axis: str) -> int:
  """Into how many parts the context's mesh splits a logical axis; 1 without."""
  mesh = jax.sharding.get_abstract_mesh()
  target = ACTIVATION_RULES[axis]
  names = (target,) if isinstance(target, str) else target or ()
  return math.prod(mesh.shape.get(name, 1) for name in names)
