import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax import checkpoints
from restem_jax.em.policy import Policies


def test_base_and_restored(directory, model_path):
  policies = Policies(str(model_path), 'auto')
  fast = jax.__version_info__ >= (0, 12)  # bf16 on a CPU
  assert policies.model.dtype == (jnp.bfloat16 if fast else jnp.float32)
  params = policies.base()
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  changed = jax.tree.map(lambda p: p + 1, params)
  store = checkpoints.Checkpoints(directory / 'checkpoints')
  store.save(3, changed, {'count': jnp.zeros(())}, {}, 0.5)
  store.close()
  for path in ('checkpoints', 'checkpoints/3'):
    restored = policies.restore(directory / path)
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, changed))
  with pytest.raises(ValueError, match='holds no checkpoint; name a step'):
    policies.restore(directory / 'nothing')


def test_the_compute_dtype(model_path):
  policies = Policies(str(model_path), 'bfloat16')
  assert policies.model.dtype == jnp.bfloat16
  assert policies.base()['embed']['table'].dtype == jnp.float32
  with pytest.raises(ValueError, match="'half'; write one of auto, float32"):
    Policies(str(model_path), 'half')


def test_fingerprints(tmp_path, model_path):
  first = Policies(str(model_path), 'auto').fingerprints()
  assert set(first) == {'weights', 'tokenizer'}
  copy = tmp_path / 'copy'
  copy.mkdir()
  for path in model_path.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  assert Policies(str(copy), 'auto').fingerprints() == first
  data = bytearray((copy / 'model.safetensors').read_bytes())
  data[-1] ^= 1
  (copy / 'model.safetensors').write_bytes(data)
  other = Policies(str(copy), 'auto').fingerprints()
  assert other['weights'] != first['weights']
  assert other['tokenizer'] == first['tokenizer']
