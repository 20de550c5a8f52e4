"""From a foreign checkpoint to parameters on devices.

In: a source (`resolve`), the abstract parameter tree, shardings. Out: the
tree of global arrays, each born in its shards. Not here: our own checkpoints
(`restem_jax.checkpoints`).
"""

from collections.abc import Iterator
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from restem_jax.weights import layout
from restem_jax.weights.gguf import GgufReader
from restem_jax.weights.huggingface import HuggingFaceReader, pickled_error
from restem_jax.weights.resolve import resolve

_STACKED = 'layers'  # parameters below it have the layers on axis 0
_Key = tuple[tuple[int, int], ...]  # (start, stop) per axis


def open_weights(source: str) -> layout.Reader:
  """The reader for a GGUF file or a Hugging Face folder.

  Args:
    source: a path, or what else `resolve` understands.

  Raises:
    ValueError: when it is neither, saying what to give.
  """
  path = resolve(source)
  if path.is_dir():
    if not (path / 'config.json').exists():
      files = [p for p in path.iterdir() if p.suffix == '.gguf']
      if len(files) == 1:
        return GgufReader(files[0])
    return HuggingFaceReader(path)
  if path.suffix == '.gguf':
    return GgufReader(path)
  if path.suffix in ('.bin', '.pt', '.pth', '.ckpt'):
    raise pickled_error(path)
  raise ValueError(
    f'{path}: give a .gguf file or a folder with config.json and '
    'model.safetensors'
  )


def load_params(
  reader: layout.Reader,
  abstract_params: Any,
  shardings: Any = None,
  dtype: Any = jnp.float32,
) -> Any:
  """Reads all parameters, tensor by tensor, into born-sharded arrays.

  A process reads the layers that its own devices hold, each once, and has at
  most its part of one parameter (with all its layers) and one layer's tensor
  in host memory beside the arrays themselves.

  Args:
    reader: the checkpoint.
    abstract_params: nested dict of `jax.ShapeDtypeStruct`s; their dtypes are
      not used.
    shardings: the same tree of shardings, or None for the default device.
    dtype: of the arrays.

  Returns:
    `abstract_params` with arrays for leaves.

  Raises:
    ValueError: when parameters are missing in the checkpoint, tensors of it
      would go unused, or shapes differ; names them.
  """
  leaves, tree = jax.tree_util.tree_flatten_with_path(abstract_params)
  paths = [tuple(key.key for key in keys) for keys, _ in leaves]
  shapes = [tuple(leaf.shape) for _, leaf in leaves]
  _check_names(reader, paths, shapes)
  if shardings is None:
    device = jax.local_devices()[0]
    each = [jax.sharding.SingleDeviceSharding(device)] * len(paths)
  else:
    each = tree.flatten_up_to(shardings)
  arrays = []
  for path, shape, sharding in zip(paths, shapes, each, strict=True):
    arrays.append(_load_one(reader, path, shape, sharding, dtype))
    # One parameter at a time: transfers may lag behind the reads.
    jax.block_until_ready(arrays[-1])
  num_params = sum(int(np.prod(shape)) for shape in shapes)
  logging.info('read %d parameters of %s', num_params, reader.path)
  return tree.unflatten(arrays)


def _load_one(
  reader: layout.Reader,
  path: layout.ParamPath,
  shape: tuple[int, ...],
  sharding: jax.sharding.Sharding,
  dtype: Any,
) -> jax.Array:
  """One parameter: every tensor is read once and cut for all its shards."""
  indices = sharding.addressable_devices_indices_map(shape).values()
  keys = {_key(index, shape) for index in indices if index is not None}
  shards = {
    key: np.empty([stop - start for start, stop in key], dtype) for key in keys
  }
  if path[0] != _STACKED:
    x = _checked(reader, path, None, shape)
    for key, shard in shards.items():
      shard[...] = x[tuple(slice(*k) for k in key)]
  else:
    for layer in range(shape[0]):
      holders = [k for k in keys if k[0][0] <= layer < k[0][1]]
      if not holders:
        continue
      x = _checked(reader, path, layer, shape[1:])
      for key in holders:
        cut = x[tuple(slice(*k) for k in key[1:])]
        shards[key][layer - key[0][0]] = cut
  return jax.make_array_from_callback(
    shape, sharding, lambda index: shards[_key(index, shape)]
  )


def _key(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> _Key:
  assert index is not None  # only of devices of other processes
  pairs = zip(index, shape, strict=True)
  return tuple((s.indices(n)[0], s.indices(n)[1]) for s, n in pairs)


def _checked(
  reader: layout.Reader,
  path: layout.ParamPath,
  layer: int | None,
  shape: tuple[int, ...],
) -> np.ndarray:
  x = reader.read(path, layer)
  if x.shape != shape:
    raise ValueError(
      f'{reader.path}: {"/".join(path)} is {x.shape} per layer, the model '
      f'asks for {shape}; build the model from the configuration of these '
      'weights'
    )
  return x


def _check_names(
  reader: layout.Reader,
  paths: list[layout.ParamPath],
  shapes: list[tuple[int, ...]],
) -> None:
  """Every parameter has its tensor, and every tensor its parameter."""
  wanted = set(_sources(reader, paths, shapes))
  for what, names in (
    ('lacks tensors that the model needs', wanted - reader.names),
    (
      'has tensors that the model would not use',
      reader.names - wanted - reader.unneeded,
    ),
  ):
    if names:
      some = ', '.join(sorted(names)[:5])
      more = f' and {len(names) - 5} more' if len(names) > 5 else ''
      raise ValueError(
        f'{reader.path} {what}: {some}{more}; build the model from the '
        'configuration of these weights'
      )


def _sources(
  reader: layout.Reader,
  paths: list[layout.ParamPath],
  shapes: list[tuple[int, ...]],
) -> Iterator[str]:
  for path, shape in zip(paths, shapes, strict=True):
    layers = range(shape[0]) if path[0] == _STACKED else (None,)
    for layer in layers:
      yield reader.source(path, layer)
