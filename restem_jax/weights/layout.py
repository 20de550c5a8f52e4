"""Where a foreign tensor goes in our parameter tree, and in which layout.

In: one layer's tensor as checkpoints store it, matrices `[out, in]`. Out: the
same numbers in our layout, and back. Also the interface that all readers share. Not
here: names of tensors, files (`gguf`, `huggingface`).
"""

from typing import Protocol

from etils import epath
from jaxtyping import Float
import numpy as np

from restem_jax.models.config import ModelConfig
from restem_jax.tokenizer import Tokenizer

# ('embed', 'table'), ('layers', 'attention', 'q'), ('final_norm',), …
ParamPath = tuple[str, ...]


class Reader(Protocol):
  """A foreign checkpoint: architecture, tensors, tokenizer.

  Attributes:
    path: the file or folder, for messages.
    config: the architecture.
    names: names of all tensors in the checkpoint.
    unneeded: those of `names` that hold nothing to learn from (rotary
      tables, a second copy of tied embeddings).
  """

  path: epath.Path
  config: ModelConfig
  names: frozenset[str]
  unneeded: frozenset[str]

  def source(self, path: ParamPath, layer: int | None) -> str:
    """The name of the tensor that a parameter (of one layer) is read from."""
    ...

  def read(
    self, path: ParamPath, layer: int | None
  ) -> Float[np.ndarray, '...']:
    """One parameter, of one layer where layers are stacked; f32."""
    ...

  def tokenizer(self) -> Tokenizer:
    """The tokenizer that comes with the weights."""
    ...

  def fingerprint(self) -> str:
    """SHA-256 (hex) over the contents of the weights' files."""
    ...


def stored_shape(path: ParamPath, config: ModelConfig) -> tuple[int, ...]:
  """The shape that checkpoints store a parameter of one layer in."""
  c = config
  q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
  name = path[-1]
  shapes = {
    'table': (c.vocab_size, c.embed_dim),
    'head': (c.vocab_size, c.embed_dim),
    'q': (q, c.embed_dim),
    'k': (kv, c.embed_dim),
    'v': (kv, c.embed_dim),
    'o': (c.embed_dim, q),
    'q_bias': (q,),
    'k_bias': (kv,),
    'v_bias': (kv,),
    'q_norm': (c.head_dim,),
    'k_norm': (c.head_dim,),
    'gate': (c.mlp_dim, c.embed_dim),
    'up': (c.mlp_dim, c.embed_dim),
    'down': (c.embed_dim, c.mlp_dim),
  }
  return shapes.get(name, (c.embed_dim,))  # the other norms


def to_ours(
  path: ParamPath, stored: Float[np.ndarray, '...'], config: ModelConfig
) -> Float[np.ndarray, '...']:
  """Transposes and splits heads: `[H*hd, D]` becomes `[D, H, hd]` for q.

  The result is a view where possible; dtype as it comes.
  """
  assert stored.shape == stored_shape(path, config), (path, stored.shape)
  name, hd = path[-1], config.head_dim
  if name in ('q', 'k', 'v'):
    return stored.T.reshape(config.embed_dim, -1, hd)
  if name == 'o':
    return stored.T.reshape(-1, hd, config.embed_dim)
  if name.endswith('_bias'):
    return stored.reshape(-1, hd)
  if name in ('gate', 'up', 'down', 'head'):
    return stored.T
  return stored


def to_stored(
  path: ParamPath, ours: Float[np.ndarray, '...'], config: ModelConfig
) -> Float[np.ndarray, '...']:
  """The inverse of `to_ours`: one layer's parameter as checkpoints store it."""
  rows, *columns = stored_shape(path, config)
  if columns and path[-1] != 'table':  # all other matrices are transposed
    return ours.reshape(columns[0], rows).T
  return ours.reshape(rows, *columns)


def check_shape(
  reader: Reader, path: ParamPath, name: str, shape: tuple[int, ...]
) -> None:
  """Raises a ValueError when a stored tensor's shape is not the expected."""
  expected = stored_shape(path, reader.config)
  if shape != expected:
    raise ValueError(
      f'{reader.path}: tensor {name!r} has shape {shape}, its '
      f'configuration asks for {expected}; the file is damaged or of another '
      'architecture'
    )
