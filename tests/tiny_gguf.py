"""Writes a tiny Hugging Face folder as GGUF, as llama.cpp's converter does.

In: a folder of `tiny.write_tiny_hf_model`. Out: a .gguf with the same
weights: q and k rows permuted for architecture `llama`, Gemma's norms with
the 1 added. The converter itself (convert_hf_to_gguf.py) is on no registry.
"""

import json
import pathlib
from typing import Any

import gguf
import numpy as np
from safetensors import numpy as safetensors_numpy

_LAYER_NAMES = {
  'input_layernorm': 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}
_TOP_NAMES = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  'lm_head': 'output',
}
_ARCHITECTURES = {'gemma3_text': 'gemma3', 'mistral': 'llama'}


def write_tiny_gguf(
  folder: pathlib.Path,
  *,
  quantize_table: bool = False,
  tensors: dict[str, np.ndarray] | None = None,
  **fields: Any,
) -> pathlib.Path:
  """Writes `folder`/model.gguf; `fields` adds or replaces metadata.

  Args:
    folder: holds config.json, model.safetensors, tokenizer.json.
    quantize_table: store the embedding as Q8_0.
    tensors: more tensors, by their GGUF name.
    **fields: metadata; dots in names are written as double underscores.
  """
  config = json.loads((folder / 'config.json').read_text())
  kind = config['model_type']
  arch = fields.pop('arch', _ARCHITECTURES.get(kind, kind))
  path = folder / 'model.gguf'
  writer = gguf.GGUFWriter(path, arch)
  meta = _metadata(config, arch) | _vocabulary(folder)
  meta |= {k.replace('__', '.'): v for k, v in fields.items()}
  for name, value in meta.items():
    if isinstance(value, bool):
      writer.add_bool(name, value)
    elif isinstance(value, int):
      writer.add_uint32(name, value)
    elif isinstance(value, float):
      writer.add_float32(name, value)
    elif isinstance(value, str):
      writer.add_string(name, value)
    else:
      writer.add_array(name, value)
  stored = safetensors_numpy.load_file(folder / 'model.safetensors')
  for name, x in stored.items():
    ours = _name(name, kind.startswith('gemma'))
    if arch == 'llama' and ('attn_q.' in ours or 'attn_k.' in ours):
      x = x.reshape(-1, 2, config['head_dim'] // 2, *x.shape[1:])
      x = x.swapaxes(1, 2).reshape(stored[name].shape)
    if kind.startswith('gemma') and 'norm' in ours:
      x = x + 1
    x = np.ascontiguousarray(x)
    if quantize_table and ours == 'token_embd.weight':
      q8 = gguf.GGMLQuantizationType.Q8_0
      writer.add_tensor(ours, gguf.quants.quantize(x, q8), raw_dtype=q8)
    else:
      writer.add_tensor(ours, x)
  for name, x in (tensors or {}).items():
    writer.add_tensor(name, x)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def _name(name: str, gemma: bool) -> str:
  stem, suffix = name.rsplit('.', 1)
  if stem in _TOP_NAMES:
    return f'{_TOP_NAMES[stem]}.{suffix}'
  _, _, layer, rest = stem.split('.', 3)
  norms = {'post_attention_layernorm': 'ffn_norm'}
  if gemma:
    norms = {
      'post_attention_layernorm': 'post_attention_norm',
      'pre_feedforward_layernorm': 'ffn_norm',
      'post_feedforward_layernorm': 'post_ffw_norm',
    }
  return f'blk.{layer}.{(_LAYER_NAMES | norms)[rest]}.{suffix}'


def _metadata(config: dict[str, Any], arch: str) -> dict[str, Any]:
  keys = {
    'block_count': 'num_hidden_layers',
    'context_length': 'max_position_embeddings',
    'embedding_length': 'hidden_size',
    'feed_forward_length': 'intermediate_size',
    'attention.head_count': 'num_attention_heads',
    'attention.head_count_kv': 'num_key_value_heads',
    'attention.key_length': 'head_dim',
    'rope.dimension_count': 'head_dim',
    'attention.layer_norm_rms_epsilon': 'rms_norm_eps',
    'rope.freq_base': 'rope_theta',
    'attention.sliding_window': 'sliding_window',
    'attn_logit_softcapping': 'attn_logit_softcapping',
    'final_logit_softcapping': 'final_logit_softcapping',
  }
  return {
    f'{arch}.{key}': config[field]
    for key, field in keys.items()
    if config.get(field) is not None
  }


def _vocabulary(folder: pathlib.Path) -> dict[str, Any]:
  tokenizer = json.loads((folder / 'tokenizer.json').read_text())
  special = {t['id'] for t in tokenizer['added_tokens'] if t['special']}
  vocab = {i: t for t, i in tokenizer['model']['vocab'].items()}
  merges = [' '.join(pair) for pair in tokenizer['model']['merges']]
  chat = json.loads((folder / 'tokenizer_config.json').read_text())
  return {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'smollm',
    'tokenizer.ggml.tokens': [vocab[i] for i in range(len(vocab))],
    'tokenizer.ggml.token_type': [
      3 if i in special else 1 for i in range(len(vocab))
    ],
    'tokenizer.ggml.merges': merges,
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2,
    'tokenizer.ggml.padding_token_id': 2,
    'tokenizer.chat_template': chat['chat_template'],
  }
