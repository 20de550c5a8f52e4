"""Reads model folders of the Hugging Face hub: config.json + safetensors.

In: a local folder with one model.safetensors or several and their index.
Out: architecture, float32 tensors in our layout, the tokenizer. Not here:
downloading (`resolve`), the tree of parameters on devices (`load`), and
pickled weights (.bin, .pt): reading one can run whatever it holds.
"""

import hashlib
import json
from typing import Any

from etils import epath
from jaxtyping import Float
import ml_dtypes  # noqa: F401 (tells numpy of bfloat16)
import numpy as np
import safetensors

from restem_jax.models.config import ModelConfig
from restem_jax.tokenizer import Tokenizer
from restem_jax.weights import cache, huggingface_config, layout

_LAYER_NAMES = {
  ('attention', 'q'): 'self_attn.q_proj.weight',
  ('attention', 'k'): 'self_attn.k_proj.weight',
  ('attention', 'v'): 'self_attn.v_proj.weight',
  ('attention', 'o'): 'self_attn.o_proj.weight',
  ('attention', 'q_bias'): 'self_attn.q_proj.bias',
  ('attention', 'k_bias'): 'self_attn.k_proj.bias',
  ('attention', 'v_bias'): 'self_attn.v_proj.bias',
  ('attention', 'q_norm'): 'self_attn.q_norm.weight',
  ('attention', 'k_norm'): 'self_attn.k_norm.weight',
  ('mlp', 'gate'): 'mlp.gate_proj.weight',
  ('mlp', 'up'): 'mlp.up_proj.weight',
  ('mlp', 'down'): 'mlp.down_proj.weight',
  ('pre_attention_norm',): 'input_layernorm.weight',
  ('pre_mlp_norm',): 'post_attention_layernorm.weight',
}
_POST_NORM_NAMES = {  # with norms after attention and MLP, names shift
  ('post_attention_norm',): 'post_attention_layernorm.weight',
  ('pre_mlp_norm',): 'pre_feedforward_layernorm.weight',
  ('post_mlp_norm',): 'post_feedforward_layernorm.weight',
}
_NAMES = {
  ('embed', 'table'): 'model.embed_tokens.weight',
  ('final_norm',): 'model.norm.weight',
  ('head',): 'lm_head.weight',
}
INDEX = 'model.safetensors.index.json'
_DTYPES = ('F64', 'F32', 'F16', 'BF16')
_PICKLED = ('.bin', '.pt', '.pth', '.ckpt')


def tensor_name(
  path: layout.ParamPath, layer: int | None, config: ModelConfig
) -> str:
  """The name of a parameter (of one layer) on the hub."""
  if layer is None:
    return _NAMES[path]
  names = _LAYER_NAMES
  if config.post_norms:
    names = _LAYER_NAMES | _POST_NORM_NAMES
  return f'model.layers.{layer}.{names[path[1:]]}'


class HuggingFaceReader:
  """A model in a folder as on the hub; see `layout.Reader`.

  Attributes:
    raw_config: the parsed config.json.

  Raises:
    ValueError: for a folder without config.json or safetensors, and for
      architectures that `ModelConfig` does not express.
  """

  def __init__(self, path: epath.PathLike):
    self.path = epath.Path(path)
    where = self.path / 'config.json'
    raw = self.raw_config = _read_json(where)
    self.config = huggingface_config.model_config(raw, str(where))
    self._gemma = raw['model_type'].startswith('gemma')
    self._files = {
      name: _open(self.path / name) for name in sorted(self._file_names())
    }
    self._file_of = {
      key: name
      for name, file in self._files.items()
      for key in list(file.keys())
    }
    self.names: frozenset[str] = frozenset(self._file_of)
    self.unneeded: frozenset[str] = frozenset(
      name
      for name in self.names
      if name.endswith('rotary_emb.inv_freq')
      or (self.config.tied_embeddings and name == 'lm_head.weight')
    )

  def source(self, path: layout.ParamPath, layer: int | None) -> str:
    """See `layout.Reader`."""
    return tensor_name(path, layer, self.config)

  def read(
    self, path: layout.ParamPath, layer: int | None
  ) -> Float[np.ndarray, '...']:
    """See `layout.Reader`."""
    name = self.source(path, layer)
    file = self._files[self._file_of[name]]
    stored = file.get_slice(name)
    if stored.get_dtype() not in _DTYPES:
      raise ValueError(
        f'{self.path}: tensor {name!r} is {stored.get_dtype()}; only '
        f'{", ".join(_DTYPES)} are read: use an unquantised checkpoint'
      )
    layout.check_shape(self, path, name, tuple(stored.get_shape()))
    x = np.asarray(file.get_tensor(name), np.float32)
    if self._gemma and path[-1].endswith('norm'):
      x = x + 1  # Gemma's norms multiply by 1 + w
    return layout.to_ours(path, x, self.config)

  def tokenizer(self) -> Tokenizer:
    """See `layout.Reader`."""
    return Tokenizer.from_directory(self.path)

  def fingerprint(self) -> str:
    """See `layout.Reader`; of config.json and every weights file."""
    digest = hashlib.sha256()
    for name in ('config.json', *self._files):
      file_sum = cache.file_sha256(self.path / name)
      digest.update(f'{name} {file_sum}\n'.encode())
    return digest.hexdigest()

  def _file_names(self) -> set[str]:
    if (self.path / 'model.safetensors').exists():
      return {'model.safetensors'}
    index = self.path / INDEX
    if index.exists():
      names = set(_read_json(index).get('weight_map', {}).values())
      for name in names:
        if '/' in name or not (self.path / name).exists():
          raise ValueError(f'{index} names {name!r}, which is not beside it')
      return names
    if any(p.suffix in _PICKLED for p in self.path.iterdir()):
      raise pickled_error(self.path)
    raise ValueError(
      f'{self.path} has neither model.safetensors nor {INDEX}; give a folder '
      'as model.save_pretrained writes it'
    )


def pickled_error(path: epath.Path) -> ValueError:
  """Why pickled weights are refused, and what to do."""
  return ValueError(
    f'{path}: pickled weights are never read (they can run code); convert '
    'them where you trust them: AutoModelForCausalLM.from_pretrained(…)'
    '.save_pretrained(folder, safe_serialization=True)'
  )


def _open(path: epath.Path) -> Any:
  try:
    return safetensors.safe_open(path, framework='numpy')
  except safetensors.SafetensorError as e:
    raise ValueError(f'{path}: no readable safetensors ({e})') from None


def _read_json(path: epath.Path) -> dict[str, Any]:
  if not path.exists():
    raise ValueError(
      f'{path} does not exist; give a folder as model.save_pretrained writes '
      'it, or a .gguf file'
    )
  try:
    return json.loads(path.read_text())
  except ValueError as e:
    raise ValueError(f'{path}: not JSON ({e})') from None
