"""Mesh, and the one table that maps logical axes onto it.

In: logical axis names of parameters and activations. Out: shardings. What is
*not* here: collectives (XLA inserts them) and process start-up.

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
  devices = jax.devices() if devices is None else devices
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
  """Sizes of the mesh axes; one may be -1: what the others leave."""

  data: int = -1
  fsdp: int = 1
  tensor: int = 1

  def make(self, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices`, by default all there are (`make_mesh`)."""
    return make_mesh(self.data, self.fsdp, self.tensor, devices)
