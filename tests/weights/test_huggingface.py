"""Hugging Face folders: logits of every family against transformers."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from real import parity
from safetensors import numpy as safetensors_numpy
from tiny import write_tiny_hf_model

from restem_jax.models.transformer import Model
from restem_jax.weights.huggingface import HuggingFaceReader
from restem_jax.weights.load import load_params

IDS = np.random.default_rng(0).integers(3, 300, (2, 40))
SMALL = {
  'vocab_size': 300,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 16,
  'max_position_embeddings': 256,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'pad_token_id': 0,
}
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 500_000.0,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 32,
}
LINEAR = {'rope_type': 'linear', 'rope_theta': 1e6, 'factor': 4.0}
LOCAL = {'rope_type': 'default', 'rope_theta': 1e4}
VARIANTS = [
  ('Llama', {'num_hidden_layers': 3}),
  ('Llama', {'num_hidden_layers': 2, 'tie_word_embeddings': True}),
  ('Llama', {'num_hidden_layers': 2, 'rope_parameters': LLAMA3}),
  ('Mistral', {'num_hidden_layers': 2, 'sliding_window': 8}),
  ('Mistral', {'num_hidden_layers': 2, 'sliding_window': None}),
  ('Qwen2', {'num_hidden_layers': 3, 'tie_word_embeddings': True}),
  (
    'Qwen2',
    {
      'num_hidden_layers': 3,
      'use_sliding_window': True,
      'sliding_window': 8,
      'max_window_layers': 1,
    },
  ),
  ('Qwen3', {'num_hidden_layers': 2, 'tie_word_embeddings': True}),
  (
    'Gemma2',
    {
      'num_hidden_layers': 3,
      'sliding_window': 8,
      'query_pre_attn_scalar': 24,
      'attn_logit_softcapping': 2.0,  # low: so that it shows
      'final_logit_softcapping': 3.0,
    },
  ),
  (
    'Gemma3Text',
    {
      'num_hidden_layers': 7,
      'sliding_window': 8,
      'query_pre_attn_scalar': 24,
      'rope_parameters': {
        'full_attention': LINEAR,
        'sliding_attention': LOCAL,
      },
    },
  ),
]


def build(family, **fields):
  """A random model of transformers with every parameter off its default."""
  torch, transformers = parity('torch'), parity('transformers')
  torch.manual_seed(0)
  config = getattr(transformers, f'{family}Config')(**SMALL | fields)
  # The tests should not depend on which attention kernel torch picks.
  config._attn_implementation = 'eager'
  name = f'{family.removesuffix("Text")}ForCausalLM'
  model = getattr(transformers, name)(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.ndim == 1:  # norms and biases start as constants
        parameter.add_(0.3 * torch.randn_like(parameter))
      else:
        parameter.mul_(4)  # from std 0.02, else all attention is uniform
    logits = model(torch.tensor(IDS)).logits.numpy()
  return model, logits


def our_logits(folder):
  reader = HuggingFaceReader(folder)
  model = Model(reader.config)
  params = load_params(reader, model.abstract_params())
  return np.asarray(model.forward(params, jnp.asarray(IDS)))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('family, fields', VARIANTS)
def test_logits_are_those_of_transformers(tmp_path, family, fields):
  model, expected = build(family, **fields)
  model.save_pretrained(tmp_path)
  ours = our_logits(tmp_path)
  print('max abs difference', np.abs(ours - expected).max())
  assert expected.std() > 0.3  # a model that says something
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
  np.testing.assert_array_equal(ours.argmax(-1), expected.argmax(-1))


@pytest.mark.filterwarnings('ignore')
def test_sharded_files_and_bfloat16_as_transformers_writes_them(tmp_path):
  torch, transformers = parity('torch'), parity('transformers')
  model, _ = build('Llama', num_hidden_layers=2)
  model = model.to(torch.bfloat16)
  model.save_pretrained(tmp_path, max_shard_size='20KB')
  assert len(list(tmp_path.glob('model-*-of-*.safetensors'))) > 1
  # Read anew: `model.float()` would keep rotary frequencies rounded to bf16.
  theirs = transformers.LlamaForCausalLM.from_pretrained(
    tmp_path, dtype=torch.float32, attn_implementation='eager'
  )
  with torch.no_grad():
    expected = theirs(torch.tensor(IDS)).logits.numpy()
  np.testing.assert_allclose(our_logits(tmp_path), expected, atol=1e-5)


@pytest.mark.parametrize(
  'family', ['llama', 'mistral', 'qwen2', 'qwen3', 'gemma2', 'gemma3']
)
@pytest.mark.filterwarnings('ignore')
def test_config_as_older_files_have_it(tmp_path, family):
  """`rope_theta` and patterns at the top level, not `rope_parameters`."""
  torch, transformers = parity('torch'), parity('transformers')
  write_tiny_hf_model(tmp_path, family=family, num_hidden_layers=3)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, attn_implementation='eager'
  )
  with torch.no_grad():
    expected = theirs(torch.tensor(IDS)).logits.numpy()
  np.testing.assert_allclose(our_logits(tmp_path), expected, atol=1e-5)


def test_reads_one_layer_in_our_layout(tmp_path):
  write_tiny_hf_model(tmp_path)
  stored = safetensors_numpy.load_file(tmp_path / 'model.safetensors')
  reader = HuggingFaceReader(tmp_path)
  q = reader.read(('layers', 'attention', 'q'), 1)
  assert q.shape == (32, 4, 8)  # [D, H, hd]
  q_proj = stored['model.layers.1.self_attn.q_proj.weight']
  assert q[5, 2, 3] == q_proj[2 * 8 + 3, 5]
  o = reader.read(('layers', 'attention', 'o'), 0)
  o_proj = stored['model.layers.0.self_attn.o_proj.weight']
  assert o[2, 3, 5] == o_proj[5, 2 * 8 + 3]


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
  write_tiny_hf_model(tmp_path)
  file = tmp_path / 'model.safetensors'
  stored = safetensors_numpy.load_file(file)
  halves = {name: x.astype(dtype) for name, x in stored.items()}
  safetensors_numpy.save_file(halves, file)
  table = HuggingFaceReader(tmp_path).read(('embed', 'table'), None)
  assert table.dtype == np.float32
  expected = halves['model.embed_tokens.weight'].astype(np.float32)
  np.testing.assert_array_equal(table, expected)


def test_norms_of_gemma_count_from_one(tmp_path):
  write_tiny_hf_model(tmp_path, family='gemma3')
  stored = safetensors_numpy.load_file(tmp_path / 'model.safetensors')
  reader = HuggingFaceReader(tmp_path)
  for path, layer, name in [
    (('final_norm',), None, 'model.norm.weight'),
    (
      ('layers', 'attention', 'k_norm'),
      1,
      'model.layers.1.self_attn.k_norm.weight',
    ),
  ]:
    np.testing.assert_array_equal(reader.read(path, layer), stored[name] + 1)


def test_fingerprint_follows_every_file(tmp_path, monkeypatch):
  monkeypatch.setenv('RESTEM_CACHE', str(tmp_path / 'cache'))
  prints = set()
  for name, fields in [
    ('a', {}),
    ('b', {'seed': 1}),
    ('c', {'num_shards': 2}),
    ('d', {'rms_norm_eps': 1e-6}),
  ]:
    folder = write_tiny_hf_model(tmp_path / name, **fields)
    prints.add(HuggingFaceReader(folder).fingerprint())
  assert len(prints) == 4
  again = write_tiny_hf_model(tmp_path / 'again')
  assert HuggingFaceReader(again).fingerprint() in prints


def test_a_config_of_another_size_is_refused(tmp_path):
  write_tiny_hf_model(tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'head_dim': 4}))
  message = r"q_proj\.weight' has shape \(32, 32\).* asks for \(16, 32\)"
  with pytest.raises(ValueError, match=message):
    HuggingFaceReader(tmp_path).read(('layers', 'attention', 'q'), 0)


def test_pickled_weights_are_never_read(tmp_path):
  write_tiny_hf_model(tmp_path)
  file = tmp_path / 'model.safetensors'
  file.rename(tmp_path / 'pytorch_model.bin')
  with pytest.raises(ValueError, match='pickled weights are never read'):
    HuggingFaceReader(tmp_path)


def test_damaged_and_missing_files_are_named(tmp_path):
  write_tiny_hf_model(tmp_path, num_shards=2)
  first = tmp_path / 'model-00001-of-00002.safetensors'
  first.write_bytes(first.read_bytes()[:1000])
  with pytest.raises(ValueError, match=r'00001-of-00002.*no readable'):
    HuggingFaceReader(tmp_path)
  first.unlink()
  with pytest.raises(ValueError, match='which is not beside it'):
    HuggingFaceReader(tmp_path)
  (tmp_path / 'model.safetensors.index.json').unlink()
  with pytest.raises(ValueError, match='neither'):
    HuggingFaceReader(tmp_path)


def test_integers_are_no_weights(tmp_path):
  write_tiny_hf_model(tmp_path)
  file = tmp_path / 'model.safetensors'
  stored = safetensors_numpy.load_file(file)
  stored['model.norm.weight'] = np.ones(32, np.int8)
  safetensors_numpy.save_file(stored, file)
  with pytest.raises(ValueError, match=r"'model\.norm\.weight' is I8"):
    HuggingFaceReader(tmp_path).read(('final_norm',), None)
