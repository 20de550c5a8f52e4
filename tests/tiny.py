"""Writes tiny but real Hugging Face model directories for tests.

In: a folder and a family. Out: config.json, model.safetensors,
tokenizer.json, tokenizer_config.json and generation_config.json, as the hub
has them, with random weights. Not here: anything that needs torch.
"""

import json
import pathlib
from typing import Any

import numpy as np
from safetensors import numpy as safetensors_numpy
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

EOS = '<|im_end|>'
SPECIALS = ('<|endoftext|>', '<|im_start|>', EOS)  # ids 0, 1, 2
TEXT = (
  'What is the sum of two numbers? The answer is the number that the problem '
  'asks for. Question: Answer: Let us think step by step. #### The final '
  'answer is + - * / = and then we add the rest, so the total is done.\n'
)
CHAT_TEMPLATE = (
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
  "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_BASE: dict[str, Any] = {
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 8,
  'max_position_embeddings': 256,
  'rms_norm_eps': 1e-5,
  'rope_theta': 10000.0,
  'hidden_act': 'silu',
  'tie_word_embeddings': True,
}
_GEMMA = {
  'hidden_activation': 'gelu_pytorch_tanh',
  'rms_norm_eps': 1e-6,
  'query_pre_attn_scalar': 16,
  'sliding_window': 8,
}
_FAMILIES: dict[str, dict[str, Any]] = {
  'llama': {'architectures': ['LlamaForCausalLM'], 'model_type': 'llama'},
  'mistral': {
    'architectures': ['MistralForCausalLM'],
    'model_type': 'mistral',
    'sliding_window': 8,
    'tie_word_embeddings': False,
  },
  'qwen2': {'architectures': ['Qwen2ForCausalLM'], 'model_type': 'qwen2'},
  'qwen3': {
    'architectures': ['Qwen3ForCausalLM'],
    'model_type': 'qwen3',
    'attention_bias': False,
  },
  'gemma2': {
    'architectures': ['Gemma2ForCausalLM'],
    'model_type': 'gemma2',
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
  }
  | _GEMMA,
  'gemma3': {
    'architectures': ['Gemma3ForCausalLM'],
    'model_type': 'gemma3_text',
    'sliding_window_pattern': 2,
    'rope_local_base_freq': 10000.0,
    'rope_theta': 1000000.0,
  }
  | _GEMMA,
}


def tiny_tokenizer(
  text: str = TEXT, vocab_size: int = 300
) -> tokenizers.Tokenizer:
  """A byte-level BPE trained on `text`, digits split one by one."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=list(SPECIALS),
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator([text], trainer)
  return tokenizer


def write_tokenizer(directory: Any, tokenizer: tokenizers.Tokenizer) -> None:
  """Writes tokenizer.json, tokenizer_config.json, generation_config.json."""
  directory = pathlib.Path(directory)
  tokenizer.save(str(directory / 'tokenizer.json'))
  _write_json(
    directory / 'tokenizer_config.json',
    {
      'add_bos_token': False,
      'bos_token': SPECIALS[1],
      'eos_token': EOS,
      'pad_token': EOS,
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'chat_template': CHAT_TEMPLATE,
    },
  )
  _write_json(
    directory / 'generation_config.json',
    {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 2},
  )


def write_tiny_hf_model(
  directory: Any,
  *,
  family: str = 'llama',
  seed: int = 0,
  text: str = TEXT,
  num_shards: int = 1,
  **config: Any,
) -> pathlib.Path:
  """Writes a tiny model of random weights; returns the folder.

  Args:
    directory: made when absent.
    family: a key of `_FAMILIES`.
    seed: of the weights.
    text: what the tokenizer is trained on (about 300 tokens in all).
    num_shards: above 1, model-0000i-of-n.safetensors and their index.
    **config: fields of config.json to set otherwise, e.g.
      `num_hidden_layers=1`.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  tokenizer = tiny_tokenizer(text)
  write_tokenizer(directory, tokenizer)
  fields = _BASE | _FAMILIES[family] | {'torch_dtype': 'float32'}
  fields |= {
    'vocab_size': tokenizer.get_vocab_size(),
    'bos_token_id': 1,
    'eos_token_id': 2,
    'pad_token_id': 2,
  }
  fields |= config
  _write_json(directory / 'config.json', fields)
  tensors = _tensors(family, fields, np.random.default_rng(seed))
  if num_shards == 1:
    safetensors_numpy.save_file(tensors, directory / 'model.safetensors')
    return directory
  weight_map = {}
  for i in range(num_shards):
    name = f'model-{i + 1:05d}-of-{num_shards:05d}.safetensors'
    shard = dict(list(tensors.items())[i::num_shards])
    safetensors_numpy.save_file(shard, directory / name)
    weight_map |= dict.fromkeys(shard, name)
  index = {'metadata': {}, 'weight_map': weight_map}
  _write_json(directory / 'model.safetensors.index.json', index)
  return directory


def _tensors(
  family: str, fields: dict[str, Any], rng: np.random.Generator
) -> dict[str, np.ndarray]:
  """Every tensor of the family by its name on the hub; matrices [out, in]."""
  d, f, hd = (
    fields['hidden_size'],
    fields['intermediate_size'],
    fields['head_dim'],
  )
  h, k = fields['num_attention_heads'], fields['num_key_value_heads']
  gemma = family.startswith('gemma')

  def matrix(rows: int, columns: int) -> np.ndarray:
    values = rng.standard_normal((rows, columns)) / np.sqrt(columns)
    return values.astype(np.float32)

  def vector(size: int, mean: float = 0.0) -> np.ndarray:
    return (mean + 0.2 * rng.standard_normal(size)).astype(np.float32)

  def norm(size: int) -> np.ndarray:
    return vector(size, 0.0 if gemma else 1.0)

  tensors = {'model.embed_tokens.weight': matrix(fields['vocab_size'], d)}
  for i in range(fields['num_hidden_layers']):
    attention, mlp = {}, {}
    for name, rows in (('q', h * hd), ('k', k * hd), ('v', k * hd)):
      attention[f'{name}_proj.weight'] = matrix(rows, d)
      if family == 'qwen2':
        attention[f'{name}_proj.bias'] = vector(rows)
    attention['o_proj.weight'] = matrix(d, h * hd)
    if family in ('qwen3', 'gemma3'):
      attention |= {'q_norm.weight': norm(hd), 'k_norm.weight': norm(hd)}
    mlp = {'gate_proj.weight': matrix(f, d), 'up_proj.weight': matrix(f, d)}
    mlp['down_proj.weight'] = matrix(d, f)
    norms = ['input_layernorm', 'post_attention_layernorm']
    if gemma:
      norms += ['pre_feedforward_layernorm', 'post_feedforward_layernorm']
    layer = {f'self_attn.{name}': value for name, value in attention.items()}
    layer |= {f'mlp.{name}': value for name, value in mlp.items()}
    layer |= {f'{name}.weight': norm(d) for name in norms}
    tensors |= {f'model.layers.{i}.{n}': value for n, value in layer.items()}
  tensors['model.norm.weight'] = norm(d)
  if not fields['tie_word_embeddings']:
    tensors['lm_head.weight'] = matrix(fields['vocab_size'], d)
  return tensors


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')
