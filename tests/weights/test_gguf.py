"""GGUF: configuration and tensors, logits of the real SmolLM2."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real import parity, smollm2_path
from tiny import write_tiny_hf_model
from tiny_gguf import write_tiny_gguf

from restem_jax.models.config import ModelConfig, RopeScaling
from restem_jax.models.transformer import Model
from restem_jax.weights import gguf as gguf_lib
from restem_jax.weights.gguf import GgufReader
from restem_jax.weights.huggingface import HuggingFaceReader
from restem_jax.weights.load import load_params

FAMILIES = ['llama', 'mistral', 'qwen2', 'qwen3', 'gemma2', 'gemma3']


@pytest.mark.parametrize('family', FAMILIES)
def test_a_gguf_holds_what_the_folder_holds(tmp_path, family):
  write_tiny_hf_model(tmp_path, family=family, query_pre_attn_scalar=8)
  theirs = HuggingFaceReader(tmp_path)
  ours = GgufReader(write_tiny_gguf(tmp_path))
  # The files don't carry the length of Gemma 3's pattern (always 6), and
  # leave scales that are the default to the reader.
  windows = (8,) * 5 + (0,) if family == 'gemma3' else theirs.config.windows
  expected = dataclasses.replace(
    theirs.config, windows=windows, query_scale=None
  )
  assert ours.config == expected
  abstract = Model(ours.config).abstract_params()
  jax.tree.map(
    np.testing.assert_array_equal,
    load_params(ours, abstract),
    load_params(theirs, abstract),
  )


def test_quantised_tensors_are_dequantised(tmp_path):
  write_tiny_hf_model(tmp_path)
  path = ('embed', 'table')
  exact = HuggingFaceReader(tmp_path).read(path, None)
  reader = GgufReader(write_tiny_gguf(tmp_path, quantize_table=True))
  table = reader.read(path, None)
  # Q8_0: blocks of 32 weights in steps of max / 127, the step itself in f16.
  step = np.abs(exact).max(-1, keepdims=True) / 127
  assert (np.abs(table - exact) <= 0.6 * step).all()
  assert (table != exact).any() and table.dtype == np.float32


def test_rotated_rows_are_put_back_in_order():
  # One head of six rows, as llama.cpp stores it.
  stored = np.array([[0.0], [3.0], [1.0], [4.0], [2.0], [5.0]])
  rows = gguf_lib._rotate_half_rows(stored, 6)
  assert rows[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_llama3_scaling_is_read_from_its_divisors(tmp_path):
  # Llama 3.2 1B: head_dim 64, theta 500,000, factor 32; borders at turns 1
  # and 4 of 8192 tokens fall at indices 17.4 and 14.0.
  index = np.arange(32)
  turns = 8192 * 500_000.0 ** (-index / 32) / (2 * np.pi)
  assert (turns[:14] > 4).all() and (turns[18:] < 1).all()
  factors = np.ones(32, np.float32)
  factors[18:] = 32
  for i in range(14, 18):
    smooth = min(max((turns[i] - 1) / 3, 0), 1)
    factors[i] = 1 / ((1 - smooth) / 32 + smooth)
  scaling = gguf_lib.llama3_scaling(factors, 64, 500_000.0)
  assert scaling == RopeScaling(kind='llama3', factor=32.0)
  factors[20] = 31
  assert gguf_lib.llama3_scaling(factors, 64, 500_000.0) is None
  write_tiny_hf_model(tmp_path)
  path = write_tiny_gguf(tmp_path, tensors={'rope_freqs.weight': factors})
  with pytest.raises(ValueError, match=r'rope_freqs\.weight holds other'):
    GgufReader(path)


def test_linear_scaling(tmp_path):
  write_tiny_hf_model(tmp_path, family='gemma3')
  fields = {
    'gemma3__rope__scaling__type': 'linear',
    'gemma3__rope__scaling__factor': 8.0,
  }
  config = GgufReader(write_tiny_gguf(tmp_path, **fields)).config
  assert config.rope_scaling == RopeScaling(kind='linear', factor=8.0)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'arch': 'mamba'}, r"model\.gguf: architecture 'mamba'"),
    ({'split__count': 2}, 'part of a split GGUF'),
    ({'llama__rope__scaling__type': 'yarn'}, "scaling 'yarn'"),
    ({'llama__rope__dimension_count': 4}, 'rotates 4 of 8'),
    ({'llama__embedding_length': 64}, "'token_embd.weight' has shape"),
  ],
)
def test_unsupported_files_are_refused(tmp_path, fields, message):
  write_tiny_hf_model(tmp_path)
  path = write_tiny_gguf(tmp_path, **fields)
  with pytest.raises(ValueError, match=message):
    GgufReader(path).read(('embed', 'table'), None)


def test_something_else_is_no_gguf(tmp_path):
  path = tmp_path / 'model.gguf'
  path.write_bytes(b'not a model' * 9)
  with pytest.raises(ValueError, match=r'model\.gguf: no readable GGUF'):
    GgufReader(path)


@pytest.mark.filterwarnings('ignore')
def test_smollm2_logits_are_those_of_transformers():
  path = smollm2_path()
  torch, transformers = parity('torch'), parity('transformers')
  parity('accelerate')  # transformers needs it to read a GGUF
  reader = GgufReader(path)
  assert reader.config == ModelConfig(
    vocab_size=49152,
    num_layers=30,
    embed_dim=576,
    mlp_dim=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    rope_theta=100_000.0,
  )
  model = Model(reader.config)
  params = load_params(reader, model.abstract_params())
  tokenizer = reader.tokenizer()
  question = 'Natalia sold 48 clips in April, then half as many. How many?'
  text = tokenizer.chat([{'role': 'user', 'content': question}])
  ids = np.array([tokenizer.encode(text)])
  ours = np.asarray(model.forward(params, jnp.asarray(ids)))
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent, gguf_file=path.name, dtype=torch.float32
  )
  with torch.no_grad():
    expected = theirs(torch.tensor(ids)).logits.numpy()
  print('max abs difference', np.abs(ours - expected).max())
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)
  np.testing.assert_array_equal(ours.argmax(-1), expected.argmax(-1))
