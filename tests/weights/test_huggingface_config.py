"""config.json of the hub: real models' fields, and what is refused.

That every field means what transformers takes it for is shown by the logits
in test_huggingface.
"""

import pytest

from restem_jax.models.config import ModelConfig, RopeScaling
from restem_jax.weights.huggingface_config import model_config

# Fields of meta-llama/Llama-3.2-1B's config.json.
LLAMA = {
  'architectures': ['LlamaForCausalLM'],
  'model_type': 'llama',
  'attention_bias': False,
  'head_dim': 64,
  'hidden_act': 'silu',
  'hidden_size': 2048,
  'intermediate_size': 8192,
  'max_position_embeddings': 131072,
  'num_attention_heads': 32,
  'num_hidden_layers': 16,
  'num_key_value_heads': 8,
  'rms_norm_eps': 1e-05,
  'rope_scaling': {
    'factor': 32.0,
    'high_freq_factor': 4.0,
    'low_freq_factor': 1.0,
    'original_max_position_embeddings': 8192,
    'rope_type': 'llama3',
  },
  'rope_theta': 500000.0,
  'tie_word_embeddings': True,
  'vocab_size': 128256,
}


def test_llama():
  config = model_config(LLAMA, 'config.json')
  assert config == ModelConfig(
    vocab_size=128256,
    num_layers=16,
    embed_dim=2048,
    mlp_dim=8192,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    max_len=131072,
    rope_theta=500_000.0,
    rope_scaling=RopeScaling(kind='llama3', factor=32.0),
  )
  assert config.num_params == 1_235_814_400  # '1.23B' on its model card


def test_both_spellings_of_the_rotary_settings():
  fields = dict(LLAMA)
  theta, scaling = fields.pop('rope_theta'), fields.pop('rope_scaling')
  fields['rope_parameters'] = {'rope_theta': theta, **scaling}
  assert model_config(fields, '') == model_config(LLAMA, '')


def test_absent_fields_of_old_files():
  fields = {k: v for k, v in LLAMA.items() if not k.startswith('rope')}
  for key in ('head_dim', 'num_key_value_heads', 'tie_word_embeddings'):
    del fields[key]
  config = model_config(fields, '')
  assert config.head_dim == 64 and config.num_kv_heads == 32
  assert config.rope_theta == 10_000.0 and config.rope_scaling is None
  assert not config.tied_embeddings


@pytest.mark.parametrize(
  'fields, windows',
  [
    ({'model_type': 'llama', 'sliding_window': 4}, (0,)),
    ({'model_type': 'mistral', 'sliding_window': 4}, (4,)),
    ({'model_type': 'mistral', 'sliding_window': None}, (0,)),
    ({'model_type': 'qwen2', 'sliding_window': 4}, (0,)),
    (
      {
        'model_type': 'qwen2',
        'sliding_window': 4,
        'use_sliding_window': True,
        'max_window_layers': 14,
      },
      (0,) * 14 + (4,) * 2,
    ),
    ({'model_type': 'gemma2', 'sliding_window': 4}, (4, 0)),
    ({'model_type': 'gemma3_text', 'sliding_window': 4}, (4,) * 5 + (0,)),
    (
      {
        'model_type': 'gemma3_text',
        'sliding_window': 4,
        'layer_types': ['sliding_attention', 'full_attention'] * 8,
      },
      (4, 0),
    ),
  ],
)
def test_windows(fields, windows):
  fields = LLAMA | {'rope_scaling': None, 'architectures': None} | fields
  assert model_config(fields, '').windows == windows


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'model_type': 'falcon'}, r"x/config\.json: .*model_type 'falcon'"),
    ({'architectures': ['LlamaForTokenClassification']}, 'TokenClass'),
    ({'attention_bias': True}, 'attention_bias=True'),
    ({'quantization_config': {'bits': 4}}, 'quantization_config'),
    ({'hidden_act': 'relu'}, "activation 'relu'"),
    ({'rope_scaling': {'type': 'yarn', 'factor': 2}}, "'yarn'"),
    ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor'),
  ],
)
def test_unsupported_models_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    model_config(LLAMA | fields, 'x/config.json')


def test_a_missing_field_is_named():
  fields = {k: v for k, v in LLAMA.items() if k != 'hidden_size'}
  with pytest.raises(ValueError, match="field 'hidden_size' is missing"):
    model_config(fields, 'x/config.json')
