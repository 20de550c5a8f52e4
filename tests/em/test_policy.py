import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax import checkpoints
from restem_jax.em import policy
from restem_jax.em.policy import compute_dtype, fast_bfloat16_on_cpu, Policies


def test_base_and_restored(directory, model_path):
  policies = Policies(str(model_path), 'auto')
  fast = fast_bfloat16_on_cpu()
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


def test_bfloat16_is_for_cpus_that_have_it(tmp_path):
  info = tmp_path / 'cpuinfo'
  info.write_text('flags\t: fpu avx2 avx512_bf16 fma\nbogomips\t: 4890\n')
  assert fast_bfloat16_on_cpu(str(info), (0, 12, 0))
  assert not fast_bfloat16_on_cpu(str(info), (0, 10, 2))
  info.write_text('flags\t: fpu avx2 avx512f fma\n')
  assert not fast_bfloat16_on_cpu(str(info), (0, 12, 0))
  assert not fast_bfloat16_on_cpu(str(tmp_path / 'absent'), (0, 12, 0))


def test_the_compute_dtype(model_path):
  policies = Policies(str(model_path), 'bfloat16')
  assert policies.model.dtype == jnp.bfloat16
  assert policies.base()['embed']['table'].dtype == jnp.float32
  with pytest.raises(ValueError, match="'half'; write one of auto, float32"):
    Policies(str(model_path), 'half')


def test_a_program_for_a_platform_that_is_not_here(monkeypatch):
  """Precompile asks on a CPU for TPUs, and for the CPU as a run does."""
  for fast, name in ((True, 'bfloat16'), (False, 'float32')):
    monkeypatch.setattr(policy, 'fast_bfloat16_on_cpu', lambda fast=fast: fast)
    assert compute_dtype('auto', 'tpu') == jnp.bfloat16
    assert compute_dtype('auto', 'cpu') == jnp.dtype(name)
    assert compute_dtype('auto') == compute_dtype('auto', 'cpu')


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
