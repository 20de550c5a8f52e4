"""config.json of the Hugging Face hub as a `ModelConfig`.

In: the parsed file, of Llama (SmolLM2 too), Mistral, Qwen2/2.5, Qwen3,
Gemma 2 or Gemma 3 (text). Both spellings of the rotary settings are read:
`rope_theta` + `rope_scaling`, and transformers 5's `rope_parameters`. Also the
way back, for models that came as a GGUF. Not here: tensors (`huggingface`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from restem_jax.models.config import ModelConfig, RopeScaling

# model_type -> values of absent fields that differ between the families
# (files hold only what differs from transformers' defaults).
_DEFAULTS: dict[str, dict[str, Any]] = {
  'llama': {'rms_norm_eps': 1e-6},
  'mistral': {'rms_norm_eps': 1e-6, 'sliding_window': 4096},
  'qwen2': {'rms_norm_eps': 1e-6},
  'qwen3': {'rms_norm_eps': 1e-6, 'head_dim': 128},
  'gemma2': {
    'rms_norm_eps': 1e-6,
    'head_dim': 256,
    'tie_word_embeddings': True,
    'hidden_activation': 'gelu_pytorch_tanh',
    'query_pre_attn_scalar': 256,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
    'sliding_window': 4096,
    'sliding_window_pattern': 2,
  },
  'gemma3_text': {
    'rms_norm_eps': 1e-6,
    'head_dim': 256,
    'tie_word_embeddings': True,
    'hidden_activation': 'gelu_pytorch_tanh',
    'query_pre_attn_scalar': 256,
    'rope_theta': 1_000_000.0,
    'rope_local_base_freq': 10_000.0,
    'sliding_window': 4096,
    'sliding_window_pattern': 6,
  },
}
_ACTIVATIONS = {
  'silu': 'silu',
  'swish': 'silu',
  'gelu_pytorch_tanh': 'gelu_tanh',
}
# Switches that change the network in ways ModelConfig does not express.
_UNSUPPORTED = (
  'quantization_config',
  'mlp_bias',
  'use_bidirectional_attention',
  'num_local_experts',
)


def model_config(raw: Mapping[str, Any], where: str) -> ModelConfig:
  """The architecture that a config.json describes.

  Args:
    raw: the parsed file.
    where: the file's name, for messages.

  Raises:
    ValueError: naming file and field, for anything not supported.
  """
  family = raw.get('model_type')
  architectures = raw.get('architectures') or []
  text_only = all(a.endswith('ForCausalLM') for a in architectures)
  if family not in _DEFAULTS or not text_only:
    raise ValueError(
      f'{where}: architecture {architectures or "unnamed"} (model_type '
      f'{family!r}) is not supported; use one of {", ".join(_DEFAULTS)} as '
      '…ForCausalLM'
    )
  c: dict[str, Any] = _DEFAULTS[family] | dict(raw)
  gemma = family.startswith('gemma')
  biased = family != 'qwen2' and c.get('attention_bias')
  for field in (*_UNSUPPORTED, *(['attention_bias'] if biased else [])):
    if c.get(field):
      raise ValueError(
        f'{where}: {field}={c[field]!r} is not supported; use a checkpoint '
        'without it'
      )
  activation = c.get('hidden_activation') or c.get('hidden_act', 'silu')
  if activation not in _ACTIVATIONS:
    raise ValueError(
      f'{where}: activation {activation!r} is not supported; known are '
      f'{", ".join(_ACTIVATIONS)}'
    )
  try:
    layers, heads = c['num_hidden_layers'], c['num_attention_heads']
    scalar = c.get('query_pre_attn_scalar') if gemma else None
    theta, scaling = _rope(c, 'full_attention', where)
    local_theta = None
    if family == 'gemma3_text':
      local_theta, _ = _rope(c, 'sliding_attention', where)
    return ModelConfig(
      vocab_size=c['vocab_size'],
      num_layers=layers,
      embed_dim=c['hidden_size'],
      mlp_dim=c['intermediate_size'],
      num_heads=heads,
      num_kv_heads=c.get('num_key_value_heads') or heads,
      head_dim=c.get('head_dim') or c['hidden_size'] // heads,
      max_len=c.get('max_position_embeddings', 8192),
      norm_eps=c['rms_norm_eps'],
      activation=_ACTIVATIONS[activation],
      tied_embeddings=bool(c.get('tie_word_embeddings', False)),
      scale_embeddings=gemma,
      qkv_bias=family == 'qwen2',
      qk_norm=family in ('qwen3', 'gemma3_text'),
      post_norms=gemma,
      query_scale=None if scalar is None else scalar**-0.5,
      attention_softcap=c.get('attn_logit_softcapping') if gemma else None,
      logit_softcap=c.get('final_logit_softcapping') if gemma else None,
      windows=_windows(c, family, layers),
      rope_theta=theta,
      rope_local_theta=local_theta,
      rope_scaling=scaling,
    )
  except KeyError as e:
    raise ValueError(f'{where}: field {e} is missing') from None


def _windows(c: Mapping[str, Any], family: str, layers: int) -> tuple[int, ...]:
  """Windows of the layers in tokens, as their shortest repeating pattern."""
  window = c.get('sliding_window') or 0
  if family == 'llama' or (
    family.startswith('qwen') and not c.get('use_sliding_window')
  ):
    return (0,)
  kinds = c.get('layer_types')
  if kinds:
    each = [window if kind == 'sliding_attention' else 0 for kind in kinds]
  elif family.startswith('gemma'):
    pattern = c['sliding_window_pattern']
    each = [window if (i + 1) % pattern else 0 for i in range(layers)]
  elif family.startswith('qwen'):
    full = c.get('max_window_layers', 28)
    each = [window if i >= full else 0 for i in range(layers)]
  else:
    each = [window] * layers
  return _shortest_cycle(each)


def _shortest_cycle(each: Sequence[int]) -> tuple[int, ...]:
  for n in range(1, len(each)):
    if all(x == each[i % n] for i, x in enumerate(each)):
      return tuple(each[:n])
  return tuple(each)


def _rope(
  c: Mapping[str, Any], layer_type: str, where: str
) -> tuple[float, RopeScaling | None]:
  """Base and scaling of the rotary frequencies of one type of layer."""
  parameters = c.get('rope_parameters')
  if parameters:
    parameters = parameters.get(layer_type, parameters)
    theta = parameters.get('rope_theta', c.get('rope_theta', 10_000.0))
  elif layer_type == 'sliding_attention':
    theta, parameters = c['rope_local_base_freq'], {}
  else:
    theta, parameters = c.get('rope_theta', 10_000.0), c.get('rope_scaling')
  parameters = parameters or {}
  partial = parameters.get('partial_rotary_factor')
  if (partial or c.get('partial_rotary_factor') or 1.0) != 1.0:
    raise ValueError(f'{where}: partial_rotary_factor is not supported')
  kind = parameters.get('rope_type', parameters.get('type', 'default'))
  if kind == 'default':
    return float(theta), None
  if kind == 'linear':
    scaling = RopeScaling(kind=kind, factor=parameters['factor'])
  elif kind == 'llama3':
    scaling = RopeScaling(
      kind=kind,
      factor=parameters['factor'],
      low_freq_factor=parameters['low_freq_factor'],
      high_freq_factor=parameters['high_freq_factor'],
      original_max_len=parameters['original_max_position_embeddings'],
    )
  else:
    raise ValueError(
      f'{where}: rotary scaling {kind!r} is not supported; known are linear '
      'and llama3'
    )
  return float(theta), scaling


_ARCHITECTURES = {
  'llama': 'LlamaForCausalLM',
  'mistral': 'MistralForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  'gemma2': 'Gemma2ForCausalLM',
  'gemma3_text': 'Gemma3ForCausalLM',
}


def _family(config: ModelConfig) -> str:
  if config.post_norms:
    return 'gemma3_text' if config.qk_norm else 'gemma2'
  if config.qk_norm or config.qkv_bias:
    return 'qwen3' if config.qk_norm else 'qwen2'
  return 'mistral' if any(config.windows) else 'llama'


def config_json(config: ModelConfig) -> dict[str, Any]:
  """A config.json that `model_config` reads as this architecture.

  Raises:
    ValueError: none of the families has it.
  """
  c, family = config, _family(config)
  act = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}[c.activation]
  raw: dict[str, Any] = {
    'architectures': [_ARCHITECTURES[family]],
    'model_type': family,
    'vocab_size': c.vocab_size,
    'num_hidden_layers': c.num_layers,
    'hidden_size': c.embed_dim,
    'intermediate_size': c.mlp_dim,
    'num_attention_heads': c.num_heads,
    'num_key_value_heads': c.num_kv_heads,
    'head_dim': c.head_dim,
    'max_position_embeddings': c.max_len,
    'rms_norm_eps': c.norm_eps,
    'hidden_activation' if c.post_norms else 'hidden_act': act,
    'tie_word_embeddings': c.tied_embeddings,
    'rope_theta': c.rope_theta,
  }
  if family in ('llama', 'mistral', 'qwen3'):
    raw['attention_bias'] = False
  if any(c.windows):
    raw['sliding_window'] = max(c.windows)
    raw['layer_types'] = [
      'sliding_attention' if w else 'full_attention' for w in c.layer_windows()
    ]
  elif family == 'mistral':
    raw['sliding_window'] = None
  if family.startswith('qwen'):
    raw['use_sliding_window'] = any(c.windows)
  if c.post_norms:
    # 168 ** -0.5 ** -2 is not quite 168.
    scalar = c.head_dim if c.query_scale is None else c.query_scale**-2
    near = abs(scalar - round(scalar)) < 1e-6
    raw['query_pre_attn_scalar'] = round(scalar) if near else scalar
    raw['attn_logit_softcapping'] = c.attention_softcap
    raw['final_logit_softcapping'] = c.logit_softcap
    if c.rope_local_theta is not None:
      raw['rope_local_base_freq'] = c.rope_local_theta
  if (scaling := c.rope_scaling) is not None:
    raw['rope_scaling'] = {'rope_type': scaling.kind, 'factor': scaling.factor}
    if scaling.kind == 'llama3':
      raw['rope_scaling'] |= {
        'low_freq_factor': scaling.low_freq_factor,
        'high_freq_factor': scaling.high_freq_factor,
        'original_max_position_embeddings': scaling.original_max_len,
      }
  if model_config(raw, 'config.json') != config:
    raise ValueError(
      f'no config.json of {family} expresses {config}; give WEIGHTS as a '
      'Hugging Face folder'
    )
  return raw
