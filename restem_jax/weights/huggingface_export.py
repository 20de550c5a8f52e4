"""Writes a model folder as on the Hugging Face hub, for other tools.

In: parameters, and the reader of the weights that they came from. Out:
config.json, safetensors, the tokenizer's files. What is *not* here: which
parameters (`em.export`), names and layouts of tensors (`huggingface`, `layout`).

config.json is written last: a folder without one is no model.
"""

from collections.abc import Callable, Iterator, Mapping
import json
import math
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from restem_jax import shards
from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Params
from restem_jax.tokenizer import Tokenizer
from restem_jax.weights import huggingface, huggingface_config, layout

# What may lie beside the tensors of a folder on the hub.
_COMPANIONS = (
  *('generation_config.json', 'tokenizer.json', 'tokenizer_config.json'),
  *('special_tokens_map.json', 'added_tokens.json', 'chat_template.jinja'),
  *('chat_template.json', 'tokenizer.model', 'vocab.json', 'merges.txt'),
)
_FILE_BYTES = 4 << 30  # at most, of one safetensors file


def write(
  directory: epath.PathLike,
  params_fn: Callable[[], Params],
  reader: layout.Reader,
  *,
  dtype: Any,
  file_bytes: int = _FILE_BYTES,
) -> None:
  """Writes the folder.

  Args:
    directory: made if needed; a path or gs://.
    params_fn: gives the parameters, whole ones; not called if the folder can't
      be written.
    reader: the weights that they were trained from: config.json and tokenizer
      are copied from a folder, or made of what a GGUF holds.
    dtype: of the tensors.
    file_bytes: size at which another safetensors file begins.

  Raises:
    ValueError: there is a model in the folder already, or no config.json
      expresses the architecture.
  """
  directory = epath.Path(directory)
  config_path = directory / 'config.json'
  if config_path.exists():
    raise ValueError(
      f'{directory} holds a model already; give an OUTPUT that does not'
    )
  raw, companions = _companions(reader)
  params, dtype = params_fn(), np.dtype(dtype)
  files = _files(params, reader.config, dtype, file_bytes)
  weight_map, size = {}, 0
  for i, entries in enumerate(files):
    name = 'model.safetensors'
    if len(files) > 1:
      name = f'model-{i + 1:05d}-of-{len(files):05d}.safetensors'
    tensors = {
      key: _stored(params, path, layer, reader.config).astype(dtype)
      for key, path, layer in entries
    }
    data = safetensors_numpy.save(tensors, metadata={'format': 'pt'})
    shards.write_atomic(directory / name, data)
    weight_map |= dict.fromkeys(tensors, name)
    size += sum(x.nbytes for x in tensors.values())
  if len(files) > 1:
    index = {'metadata': {'total_size': size}, 'weight_map': weight_map}
    shards.write_atomic(directory / huggingface.INDEX, _json(index))
  for name, content in companions.items():
    shards.write_atomic(directory / name, content)
  raw = {k: v for k, v in raw.items() if k != 'dtype'}
  shards.write_atomic(config_path, _json(raw | {'torch_dtype': dtype.name}))
  logging.info(
    'wrote %.2f GB of %s tensors to %s', size / 1e9, dtype, directory
  )


_Entry = tuple[str, layout.ParamPath, int | None]  # name on the hub, parameter


def _entries(
  params: Params, config: ModelConfig
) -> Iterator[tuple[_Entry, int]]:
  """Every tensor, in the order of the layers, with its number of elements."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  found = {tuple(key.key for key in keys): x.shape for keys, x in leaves}
  for path, shape in found.items():
    if path[0] != 'layers':
      name = huggingface.tensor_name(path, None, config)
      yield (name, path, None), math.prod(shape)
  for layer in range(config.num_layers):
    for path, shape in found.items():
      if path[0] == 'layers':
        name = huggingface.tensor_name(path, layer, config)
        yield (name, path, layer), math.prod(shape[1:])


def _files(
  params: Params, config: ModelConfig, dtype: np.dtype, file_bytes: int
) -> list[list[_Entry]]:
  files: list[list[_Entry]] = [[]]
  size = 0
  for entry, count in _entries(params, config):
    size += count * dtype.itemsize
    if files[-1] and size > file_bytes:
      files.append([])
      size = count * dtype.itemsize
    files[-1].append(entry)
  return files


def _stored(
  params: Params,
  path: layout.ParamPath,
  layer: int | None,
  config: ModelConfig,
) -> np.ndarray:
  """One tensor `[out, in]` in f32, contiguous."""
  x = params
  for key in path:
    x = x[key]
  x = np.asarray(x if layer is None else x[layer], np.float32)
  if config.post_norms and path[-1].endswith('norm'):
    x = x - 1  # Gemma's norms multiply by 1 + w
  return np.ascontiguousarray(layout.to_stored(path, x, config))


def _companions(
  reader: layout.Reader,
) -> tuple[Mapping[str, Any], Mapping[str, bytes | str]]:
  """config.json, and the tokenizer's files by name."""
  if isinstance(reader, huggingface.HuggingFaceReader):
    paths = (reader.path / name for name in _COMPANIONS)
    copied = {path.name: path.read_bytes() for path in paths if path.exists()}
    return reader.raw_config, copied
  tokenizer = reader.tokenizer()
  raw = huggingface_config.config_json(reader.config)
  ids = _special_ids(tokenizer)
  return raw | ids, _tokenizer_files(tokenizer)


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
  ids = {
    'bos_token_id': tokenizer.bos_id,
    'eos_token_id': list(tokenizer.eos_ids) or None,
    'pad_token_id': tokenizer.pad_id,
  }
  return {name: i for name, i in ids.items() if i is not None}


def _tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes | str]:
  """What `Tokenizer.from_directory` and transformers read."""
  backend = tokenizer.backend
  config: dict[str, Any] = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'add_bos_token': tokenizer.add_bos,
    'clean_up_tokenization_spaces': False,
  }
  ids = (tokenizer.bos_id, *(tokenizer.eos_ids[:1] or [None]), tokenizer.pad_id)
  for kind, i in zip(('bos', 'eos', 'pad'), ids, strict=True):
    if i is not None and (token := backend.id_to_token(i)) is not None:
      config[f'{kind}_token'] = token
  if tokenizer.chat_template:
    config['chat_template'] = tokenizer.chat_template
  return {
    'tokenizer.json': backend.to_str(),
    'tokenizer_config.json': _json(config),
    'generation_config.json': _json(_special_ids(tokenizer)),
  }


def _json(value: Mapping[str, Any]) -> str:
  return json.dumps(value, indent=2, ensure_ascii=False) + '\n'
