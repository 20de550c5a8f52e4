"""The architecture of a decoder-only Transformer, as one value.

Families are configs, not forks: the fields below express Llama, SmolLM2,
Mistral, Qwen2/2.5, Qwen3, Gemma 2 and Gemma 3. What is *not* here: where the
weights come from (`weights/`), the tokenizer, and the mesh.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
  """A change of the rotary frequencies for contexts beyond the trained one.

  `linear` divides every frequency by `factor`. `llama3` divides the low
  frequencies, keeps the high ones and blends between (Llama 3.1's
  `rope_scaling`, https://arxiv.org/abs/2407.21783 §3.2, and transformers'
  `_compute_llama3_parameters`).
  """

  kind: str = 'linear'  # 'linear' | 'llama3'
  factor: float = 1.0
  low_freq_factor: float = 1.0  # llama3 only
  high_freq_factor: float = 4.0  # llama3 only
  original_max_len: int = 8192  # tokens; llama3 only

  def __post_init__(self):
    if self.kind not in ('linear', 'llama3'):
      raise ValueError(
        f'RopeScaling.kind is {self.kind!r}; write "linear" or "llama3"'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Shapes and switches of a Transformer. Letters as in the shape legend."""

  vocab_size: int  # V
  num_layers: int  # L
  embed_dim: int  # D
  mlp_dim: int  # F
  num_heads: int  # H
  num_kv_heads: int  # K; H must be a multiple
  head_dim: int
  max_len: int = 8192  # tokens the positions were trained for
  norm_eps: float = 1e-5
  activation: str = 'silu'  # 'silu' | 'gelu_tanh'
  tied_embeddings: bool = True
  scale_embeddings: bool = False  # by sqrt(D): Gemma
  qkv_bias: bool = False  # Qwen2
  qk_norm: bool = False  # RMS norm over head_dim of q and k: Qwen3, Gemma 3
  post_norms: bool = False  # norms after attention and MLP: Gemma 2, 3
  query_scale: float | None = None  # default head_dim ** -0.5
  attention_softcap: float | None = None  # Gemma 2: 50.
  logit_softcap: float | None = None  # Gemma 2: 30.
  # Window of each layer in tokens, repeated cyclically; 0 sees everything.
  # Gemma 2: (4096, 0); Gemma 3: (512,) * 5 + (0,); Mistral 0.1: (4096,).
  windows: tuple[int, ...] = (0,)
  rope_theta: float = 10_000.0
  rope_local_theta: float | None = None  # for windowed layers: Gemma 3
  rope_scaling: RopeScaling | None = None  # not applied to windowed layers

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} must be a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_dim % 2:
      raise ValueError(f'head_dim={self.head_dim} must be even (rotary pairs)')
    if self.activation not in ('silu', 'gelu_tanh'):
      raise ValueError(
        f'activation={self.activation!r}; write "silu" or "gelu_tanh"'
      )

  @property
  def num_params(self) -> int:
    """Number of parameters, from the shapes alone."""
    d, f, h, k, hd = (
      self.embed_dim,
      self.mlp_dim,
      self.num_heads,
      self.num_kv_heads,
      self.head_dim,
    )
    layer = d * hd * (2 * h + 2 * k) + 3 * d * f + 2 * d
    layer += self.qkv_bias * hd * (h + 2 * k) + self.qk_norm * 2 * hd
    layer += self.post_norms * 2 * d
    embed = self.vocab_size * d * (1 if self.tied_embeddings else 2)
    return embed + self.num_layers * layer + d

  def layer_windows(self) -> tuple[int, ...]:
    """The window of each of the L layers, in tokens; 0 sees everything."""
    return tuple(
      self.windows[i % len(self.windows)] for i in range(self.num_layers)
    )
