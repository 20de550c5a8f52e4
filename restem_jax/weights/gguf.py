"""Reads models in GGUF, quantised or not.

In: one .gguf file. Out: architecture, float32 tensors in our layout, the
tokenizer. Not here: the tree of parameters on devices (`load`).

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; names of
tensors as `convert_hf_to_gguf.py` of llama.cpp writes them.
"""

from typing import Any

from etils import epath
import gguf
from jaxtyping import Float
import numpy as np

from restem_jax.models.config import ModelConfig, RopeScaling
from restem_jax.tokenizer import Tokenizer
from restem_jax.weights import cache, gguf_vocabulary, layout

_ARCHITECTURES = ('llama', 'qwen2', 'qwen3', 'gemma2', 'gemma3')
_LAYER_NAMES = {
  ('attention', 'q'): 'attn_q.weight',
  ('attention', 'k'): 'attn_k.weight',
  ('attention', 'v'): 'attn_v.weight',
  ('attention', 'o'): 'attn_output.weight',
  ('attention', 'q_bias'): 'attn_q.bias',
  ('attention', 'k_bias'): 'attn_k.bias',
  ('attention', 'v_bias'): 'attn_v.bias',
  ('attention', 'q_norm'): 'attn_q_norm.weight',
  ('attention', 'k_norm'): 'attn_k_norm.weight',
  ('mlp', 'gate'): 'ffn_gate.weight',
  ('mlp', 'up'): 'ffn_up.weight',
  ('mlp', 'down'): 'ffn_down.weight',
  ('pre_attention_norm',): 'attn_norm.weight',
  ('post_attention_norm',): 'post_attention_norm.weight',
  ('pre_mlp_norm',): 'ffn_norm.weight',
  ('post_mlp_norm',): 'post_ffw_norm.weight',
}
_NAMES = {
  ('embed', 'table'): 'token_embd.weight',
  ('final_norm',): 'output_norm.weight',
  ('head',): 'output.weight',
}
_ROPE_FACTORS = 'rope_freqs.weight'


class GgufReader:
  """A model in one GGUF file; see `layout.Reader`.

  Raises:
    ValueError: for an architecture or a variant that `ModelConfig` does not
      express, a split file, or something that is no GGUF.
  """

  def __init__(self, path: epath.PathLike):
    self.path = epath.Path(path)
    try:
      self._file = gguf.GGUFReader(self.path)
    except (ValueError, IndexError, KeyError) as e:
      raise ValueError(f'{self.path}: no readable GGUF ({e})') from None
    self._tensors = {t.name: t for t in self._file.tensors}
    self.names: frozenset[str] = frozenset(self._tensors)
    self.unneeded: frozenset[str] = self.names & {_ROPE_FACTORS}
    if (self._get('split.count') or 1) > 1:
      raise ValueError(
        f'{self.path} is one part of a split GGUF; join the parts: '
        'llama-gguf-split --merge FIRST_PART OUTPUT'
      )
    self.architecture = self._get('general.architecture')
    if self.architecture not in _ARCHITECTURES:
      raise ValueError(
        f'{self.path}: architecture {self.architecture!r} is not supported; '
        f'use one of {", ".join(_ARCHITECTURES)}'
      )
    self.config = self._config()

  def source(self, path: layout.ParamPath, layer: int | None) -> str:
    """See `layout.Reader`."""
    if layer is None:
      return _NAMES[path]
    return f'blk.{layer}.{_LAYER_NAMES[path[1:]]}'

  def read(
    self, path: layout.ParamPath, layer: int | None
  ) -> Float[np.ndarray, '...']:
    """See `layout.Reader`."""
    name = self.source(path, layer)
    tensor = self._tensors[name]
    shape = tuple(int(n) for n in reversed(tensor.shape))  # ggml: [in, out]
    layout.check_shape(self, path, name, shape)
    x = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    x = np.asarray(x, np.float32).reshape(shape)
    if self.architecture == 'llama' and path[-1] in _ROTATED:
      x = _rotate_half_rows(x, self.config.head_dim)
    return layout.to_ours(path, x, self.config)

  def tokenizer(self) -> Tokenizer:
    """See `layout.Reader`."""
    return gguf_vocabulary.read_tokenizer(self.path)

  def fingerprint(self) -> str:
    """See `layout.Reader`."""
    return cache.file_sha256(self.path)

  def _get(self, key: str, default: Any = None) -> Any:
    field = self._file.get_field(key)
    return default if field is None else field.contents()

  def _config(self) -> ModelConfig:
    arch = self.architecture

    def get(key: str, default: Any = None) -> Any:
      return self._get(f'{arch}.{key}', default)

    def need(key: str) -> Any:
      value = get(key)
      if value is None:
        raise ValueError(f'{self.path}: metadata {arch}.{key} is missing')
      return value

    layers, dim = need('block_count'), need('embedding_length')
    heads = need('attention.head_count')
    head_dim = get('attention.key_length', dim // heads)
    if get('rope.dimension_count', head_dim) != head_dim:
      raise ValueError(
        f'{self.path}: rotates {get("rope.dimension_count")} of {head_dim} '
        'dimensions per head; only full rotation is supported'
      )
    gemma = arch.startswith('gemma')
    window = get('attention.sliding_window', 0) or 0
    if arch == 'gemma2':
      windows = (window, 0)
    elif arch == 'gemma3':
      windows = (window,) * 5 + (0,)
    else:
      windows = (window,)
    # The files don't say it: the largest Gemmas scale by D/H (llama.cpp).
    by_width = (arch, layers) in (('gemma2', 46), ('gemma3', 62))
    table = self._tensors.get('token_embd.weight')
    if table is None:
      raise ValueError(f'{self.path}: tensor token_embd.weight is missing')
    return ModelConfig(
      vocab_size=int(table.shape[-1]),
      num_layers=layers,
      embed_dim=dim,
      mlp_dim=need('feed_forward_length'),
      num_heads=heads,
      num_kv_heads=get('attention.head_count_kv', heads),
      head_dim=head_dim,
      max_len=need('context_length'),
      # Stored as float32: 1e-5 comes back as 9.99999974e-06.
      norm_eps=float(f'{need("attention.layer_norm_rms_epsilon"):.7g}'),
      activation='gelu_tanh' if gemma else 'silu',
      tied_embeddings='output.weight' not in self.names,
      scale_embeddings=gemma,
      qkv_bias='blk.0.attn_q.bias' in self.names,
      qk_norm=arch in ('qwen3', 'gemma3'),
      post_norms=gemma,
      query_scale=(dim // heads) ** -0.5 if by_width else None,
      attention_softcap=get('attn_logit_softcapping'),
      logit_softcap=get('final_logit_softcapping'),
      windows=windows,
      rope_theta=float(get('rope.freq_base', 10_000.0)),
      rope_local_theta=10_000.0 if arch == 'gemma3' else None,
      rope_scaling=self._rope_scaling(head_dim),
    )

  def _rope_scaling(self, head_dim: int) -> RopeScaling | None:
    arch = self.architecture
    kind = self._get(f'{arch}.rope.scaling.type', 'none')
    factor = float(self._get(f'{arch}.rope.scaling.factor', 1.0))
    if kind not in ('none', 'linear'):
      raise ValueError(f'{self.path}: rope scaling {kind!r} is not supported')
    if _ROPE_FACTORS in self.names:
      theta = float(self._get(f'{arch}.rope.freq_base', 10_000.0))
      factors = np.asarray(self._tensors[_ROPE_FACTORS].data)
      scaling = llama3_scaling(factors, head_dim, theta)
      if scaling is None:
        raise ValueError(
          f'{self.path}: {_ROPE_FACTORS} holds other factors than Llama 3.1 '
          'to 3.3 use; only those are supported'
        )
      return scaling
    if kind == 'none' or factor == 1.0:
      return None
    return RopeScaling(kind='linear', factor=factor)


_ROTATED = ('q', 'k', 'q_bias', 'k_bias')


def _rotate_half_rows(x: np.ndarray, head_dim: int) -> np.ndarray:
  """Undoes llama.cpp's order of q and k rows, made for adjacent pairs.

  Files of architecture `llama` hold rows (0, hd/2, 1, hd/2 + 1, …) of each
  head; ours, like the hub's, are in order (`permute` in convert_hf_to_gguf).
  """
  y = x.reshape(-1, head_dim // 2, 2, *x.shape[1:])
  return y.swapaxes(1, 2).reshape(x.shape)


def llama3_scaling(
  factors: Float[np.ndarray, ' half'], head_dim: int, theta: float
) -> RopeScaling | None:
  """The RopeScaling that Llama 3's stored divisors stand for, or None.

  Only the divisor of each frequency is in the file. The largest is `factor`;
  the other constants are those of all released models, and must reproduce
  every divisor.
  """
  scaling = RopeScaling(kind='llama3', factor=float(factors.max()))
  exponent = np.arange(0, head_dim, 2) / head_dim
  turns = scaling.original_max_len * theta**-exponent / (2 * np.pi)
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
  expected = 1 / (keep + (1 - keep) / scaling.factor)
  if factors.shape != expected.shape:
    return None
  return scaling if np.allclose(factors, expected, rtol=1e-4) else None
