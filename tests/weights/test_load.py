"""Parameters on devices: any sharding, read once, and complete."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from tiny import write_tiny_hf_model
from tiny_gguf import write_tiny_gguf

from restem_jax import partitioning
from restem_jax.models.transformer import Model
from restem_jax.weights.gguf import GgufReader
from restem_jax.weights.huggingface import HuggingFaceReader
from restem_jax.weights.load import load_params, open_weights


def test_tree_and_values(tmp_path):
  write_tiny_hf_model(tmp_path, family='qwen2', tie_word_embeddings=False)
  reader = open_weights(str(tmp_path))
  abstract = Model(reader.config).abstract_params()
  params = load_params(reader, abstract)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), params)
  assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), abstract)
  num_params = sum(x.size for x in jax.tree.leaves(params))
  assert num_params == reader.config.num_params
  stored = safetensors_numpy.load_file(tmp_path / 'model.safetensors')
  np.testing.assert_array_equal(params['head'], stored['lm_head.weight'].T)
  for layer in range(2):
    np.testing.assert_array_equal(
      params['layers']['mlp']['down'][layer],
      stored[f'model.layers.{layer}.mlp.down_proj.weight'].T,
    )


class Counting:
  """A reader that notes what is read."""

  def __init__(self, reader):
    self.reader, self.read_names = reader, []

  def __getattr__(self, name):
    return getattr(self.reader, name)

  def read(self, path, layer):
    self.read_names.append(self.reader.source(path, layer))
    return self.reader.read(path, layer)


@pytest.mark.parametrize(
  'mesh', [{'data': 8}, {'fsdp': 4, 'tensor': 2}, {'fsdp': 2, 'tensor': 1}]
)
def test_same_values_on_any_mesh_and_each_tensor_read_once(tmp_path, mesh):
  write_tiny_hf_model(tmp_path, family='gemma3', num_shards=3)
  reader = Counting(HuggingFaceReader(tmp_path))
  model = Model(reader.config)
  expected = load_params(reader, model.abstract_params())
  mesh = partitioning.make_mesh(**{'data': -1, **mesh})
  axes = model.logical_axes()
  axes['embed']['table'] = (None, 'embed')  # 300 tokens: not by 8
  shardings = partitioning.shardings(mesh, axes)
  reader.read_names.clear()
  params = load_params(reader, model.abstract_params(), shardings)
  assert sorted(reader.read_names) == sorted(reader.names)
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  jax.tree.map(lambda x, s: _same_sharding(x, s), params, shardings)


def _same_sharding(x, sharding):
  assert x.sharding.is_equivalent_to(sharding, x.ndim)


def test_layers_split_over_devices(tmp_path):
  write_tiny_hf_model(tmp_path, num_hidden_layers=8)
  reader = open_weights(str(tmp_path))
  abstract = Model(reader.config).abstract_params()
  mesh = partitioning.make_mesh()
  on_layers = NamedSharding(mesh, PartitionSpec('data'))
  whole = NamedSharding(mesh, PartitionSpec())
  shardings = jax.tree.map_with_path(
    lambda keys, _: on_layers if keys[0].key == 'layers' else whole, abstract
  )
  params = load_params(reader, abstract, shardings)
  up = params['layers']['mlp']['up']
  assert up.addressable_shards[3].data.shape == (1, 32, 48)
  expected = load_params(reader, abstract)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_dtype(tmp_path):
  write_tiny_hf_model(tmp_path)
  reader = open_weights(str(tmp_path))
  abstract = Model(reader.config).abstract_params()
  exact = load_params(reader, abstract)
  params = load_params(reader, abstract, dtype=jnp.bfloat16)
  jax.tree.map(
    np.testing.assert_array_equal,
    params,
    jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact),
  )


@pytest.mark.parametrize(
  'change, message',
  [
    ('drop', r'lacks .*model\.layers\.1\.mlp\.up_proj\.weight'),
    ('add', r'would not use: model\.layers\.0\.self_attn\.q_proj\.bias'),
    ('cut', r"'model\.layers\.0\.mlp\.up_proj\.weight' has shape \(48, 31\)"),
  ],
)
def test_incomplete_checkpoints_are_refused(tmp_path, change, message):
  write_tiny_hf_model(tmp_path)
  file = tmp_path / 'model.safetensors'
  stored = safetensors_numpy.load_file(file)
  if change == 'drop':
    del stored['model.layers.1.mlp.up_proj.weight']
  elif change == 'add':
    stored['model.layers.0.self_attn.q_proj.bias'] = np.ones(32, np.float32)
  else:
    name = 'model.layers.0.mlp.up_proj.weight'
    stored[name] = np.ascontiguousarray(stored[name][:, :31])
  safetensors_numpy.save_file(stored, file)
  reader = open_weights(str(tmp_path))
  abstract = Model(reader.config).abstract_params()
  with pytest.raises(ValueError, match=message):
    load_params(reader, abstract)


def test_a_model_of_another_shape_is_refused(tmp_path):
  reader = open_weights(str(write_tiny_hf_model(tmp_path / 'a')))
  other = open_weights(
    str(write_tiny_hf_model(tmp_path / 'b', intermediate_size=64))
  )
  abstract = Model(other.config).abstract_params()
  with pytest.raises(ValueError, match='the model asks for'):
    load_params(reader, abstract)


def test_needless_tensors_are_left_alone(tmp_path):
  write_tiny_hf_model(tmp_path)  # tied
  file = tmp_path / 'model.safetensors'
  stored = safetensors_numpy.load_file(file)
  stored['lm_head.weight'] = stored['model.embed_tokens.weight'].copy()
  name = 'model.layers.0.self_attn.rotary_emb.inv_freq'
  stored[name] = np.ones(4, np.float32)
  safetensors_numpy.save_file(stored, file)
  reader = open_weights(str(tmp_path))
  params = load_params(reader, Model(reader.config).abstract_params())
  assert 'head' not in params


def test_open_weights_decides_by_what_is_there(tmp_path):
  write_tiny_hf_model(tmp_path)
  gguf_path = write_tiny_gguf(tmp_path)
  assert isinstance(open_weights(str(tmp_path)), HuggingFaceReader)
  assert isinstance(open_weights(str(gguf_path)), GgufReader)
  (tmp_path / 'config.json').unlink()
  assert isinstance(open_weights(str(tmp_path)), GgufReader)


@pytest.mark.parametrize(
  'name, message',
  [
    ('pytorch_model.bin', 'pickled weights are never read'),
    ('model.safetensors', 'give a .gguf file or a folder'),
  ],
)
def test_other_files_are_refused(tmp_path, name, message):
  path = tmp_path / name
  path.touch()
  with pytest.raises(ValueError, match=message):
    open_weights(str(path))


def test_readers_bring_their_tokenizer(tmp_path, monkeypatch):
  monkeypatch.setenv('RESTEM_CACHE', str(tmp_path / 'cache'))
  write_tiny_hf_model(tmp_path)
  folder = open_weights(str(tmp_path)).tokenizer()
  file = open_weights(str(write_tiny_gguf(tmp_path))).tokenizer()
  assert folder.encode('What is 12?') == file.encode('What is 12?')
