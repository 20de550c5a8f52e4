"""Folders for the hub, read back by us and by transformers."""

import json

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from real import parity
import tiny

from restem_jax.models.transformer import Model
from restem_jax.weights import huggingface_export, layout, load


def read(folder):
  reader = load.open_weights(str(folder))
  return reader, load.load_params(
    reader, Model(reader.config).abstract_params()
  )


def test_a_copy_is_the_same(tmp_path):
  """Every tensor, config.json and the tokenizer."""
  for family in ('qwen2', 'gemma3'):
    source = tiny.write_tiny_hf_model(tmp_path / family, family=family)
    reader, params = read(source)
    output = tmp_path / f'{family}_copy'
    huggingface_export.write(
      output, lambda params=params: params, reader, dtype=np.float32
    )
    back, again = read(output)
    assert back.config == reader.config
    # 1 + w and back rounds Gemma's norms.
    close = lambda a, b: np.allclose(a, b, rtol=0, atol=2e-7)
    assert jax.tree.all(jax.tree.map(close, again, params))
    assert back.tokenizer().fingerprint() == reader.tokenizer().fingerprint()
    for name in ('tokenizer.json', 'generation_config.json'):
      assert (output / name).read_bytes() == (source / name).read_bytes()


def test_several_files_in_bf16(tmp_path):
  source = tiny.write_tiny_hf_model(tmp_path / 'source')
  reader, params = read(source)
  output = tmp_path / 'output'
  huggingface_export.write(
    output, lambda: params, reader, dtype=jnp.bfloat16, file_bytes=20_000
  )
  names = sorted(p.name for p in output.glob('*.safetensors'))
  assert len(names) > 1
  assert names[0] == f'model-00001-of-{len(names):05d}.safetensors'
  index = json.loads((output / 'model.safetensors.index.json').read_text())
  assert sorted(set(index['weight_map'].values())) == names
  size = sum(x.size for x in jax.tree.leaves(params)) * 2
  assert index['metadata']['total_size'] == size
  raw = json.loads((output / 'config.json').read_text())
  assert raw['torch_dtype'] == 'bfloat16'
  _, again = read(output)
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert jax.tree.all(jax.tree.map(np.array_equal, again, rounded))


class Gguf:
  """A reader that is no folder of the hub."""

  def __init__(self, config, tokenizer):
    self.config, self._tokenizer = config, tokenizer

  def tokenizer(self):
    return self._tokenizer


@pytest.mark.parametrize(
  'switches',
  ['plain', 'qkv_bias', 'llama3_rope', 'linear_rope', 'untied'],
)
def test_config_and_tokenizer_are_made_where_there_are_none(tmp_path, switches):
  source = tiny.write_tiny_hf_model(tmp_path / 'source')
  tokenizer = load.open_weights(str(source)).tokenizer()
  model, params = networks.build(networks.SWITCHES[switches])
  reader: layout.Reader = Gguf(model.config, tokenizer)  # pyright: ignore
  output = tmp_path / 'output'
  huggingface_export.write(output, lambda: params, reader, dtype=np.float32)
  back, again = read(output)
  assert back.config == model.config
  assert jax.tree.all(jax.tree.map(np.array_equal, again, params))
  assert back.tokenizer().fingerprint() == tokenizer.fingerprint()


@pytest.mark.filterwarnings('ignore')
def test_transformers_reads_it(tmp_path):
  torch, transformers = parity('torch'), parity('transformers')
  source = tiny.write_tiny_hf_model(tmp_path / 'source')
  tokenizer = load.open_weights(str(source)).tokenizer()
  fields = {'vocab_size': tokenizer.vocab_size, 'num_layers': 2}
  model, params = networks.build(fields)
  reader: layout.Reader = Gguf(model.config, tokenizer)  # pyright: ignore
  output = tmp_path / 'output'
  huggingface_export.write(output, lambda: params, reader, dtype=np.float32)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(output).eval()
  ids = np.arange(3, 43).reshape(2, 20)
  with torch.no_grad():
    expected = theirs(torch.tensor(ids)).logits.numpy()
  found = model.forward(params, jnp.asarray(ids))
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
  text = 'What is 12 + 3?\n'
  their_tokenizer = transformers.AutoTokenizer.from_pretrained(output)
  assert their_tokenizer(text)['input_ids'] == tokenizer.encode(text)
  assert their_tokenizer.eos_token_id == tokenizer.eos_ids[0]


def test_a_folder_with_a_model_is_left_alone(tmp_path):
  source = tiny.write_tiny_hf_model(tmp_path / 'source')
  before = {p.name: p.read_bytes() for p in source.iterdir()}

  def never():
    raise AssertionError('nothing is to be loaded')

  with pytest.raises(ValueError, match='holds a model already'):
    huggingface_export.write(
      source, never, load.open_weights(str(source)), dtype=np.float32
    )
  assert {p.name: p.read_bytes() for p in source.iterdir()} == before


def test_an_architecture_without_a_name(tmp_path):
  source = tiny.write_tiny_hf_model(tmp_path / 'source')
  tokenizer = load.open_weights(str(source)).tokenizer()
  config = networks.config(**networks.SWITCHES['all'])
  reader: layout.Reader = Gguf(config, tokenizer)  # pyright: ignore
  with pytest.raises(ValueError, match='give WEIGHTS as a Hugging Face'):
    huggingface_export.write(
      tmp_path / 'output', dict, reader, dtype=np.float32
    )
