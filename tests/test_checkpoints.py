"""What is saved comes back exactly, and only what is whole counts."""

import json
import os
import pathlib
import subprocess
import sys

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from restem_jax import checkpoints as checkpoints_lib, partitioning

AXES = {'table': ('vocab', 'embed'), 'norm': ('embed',)}


def tree(seed, mesh=None):
  rng = np.random.default_rng(seed)
  values = {
    'table': rng.normal(size=(8, 4)).astype(np.float32),
    'norm': rng.normal(size=4).astype(np.float32),
  }
  if mesh is None:
    return jax.tree.map(jnp.asarray, values)
  return jax.device_put(values, partitioning.shardings(mesh, AXES))


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def folder(tmp_path):
  return epath.Path(tmp_path) / 'checkpoints'


@pytest.fixture
def store(folder):
  """The `Checkpoints` of a new folder, and how to open them anew."""
  opened = []

  def reopen():
    if opened:
      opened.pop().close()
    opened.append(checkpoints_lib.Checkpoints(folder))
    return opened[0]

  yield reopen
  opened.pop().close()


def save(checkpoints, step, reward, seed=None):
  seed = step if seed is None else seed
  opt_state = {'count': jnp.int32(step), 'mu': tree(seed + 100)}
  progress = {'epoch': 1, 'position': {'next': 3}, 'history': []}
  checkpoints.save(step, tree(seed), opt_state, progress, reward)


def test_what_is_restored_is_what_was_saved(store):
  checkpoints = store()
  assert checkpoints.latest_step is None and checkpoints.best_step is None
  history = [{'epoch': 1, 'step': 3, 'reward': 1 / 3}]
  progress = {'epoch': 1, 'position': {'a': [1, None]}, 'history': history}
  params = tree(0)
  params['table'] = params['table'].at[0].set([jnp.nan, jnp.inf, -0.0, 1e-40])
  opt_state = {'count': jnp.int32(7), 'mu': tree(1)}
  kept = jax.tree.map(np.array, (params, opt_state))
  checkpoints.save(3, params, opt_state, progress, 0.5)
  # The next training step reuses the buffers at once, while the save goes on.
  step = jax.jit(
    lambda t: jax.tree.map(lambda x: x * 0 + 9, t), donate_argnums=0
  )
  step((params, opt_state))
  checkpoints.wait()
  blank = jax.tree.map(jnp.zeros_like, (tree(0), {'count': 0, 'mu': tree(0)}))
  *restored, saved = store().restore(3, *blank)
  assert_equal(tuple(restored), kept)
  assert saved == progress


def test_no_file_is_large(store, folder):
  """A file is held in memory until it is full."""
  key = jax.random.key(0)  # random bits: nothing to compress
  big = {'w': jax.random.bits(key, (80, 1 << 18), jnp.uint32)}
  checkpoints = store()
  checkpoints.save(1, big, {'count': jnp.int32(1)}, {}, None)
  checkpoints.wait()
  files = pathlib.Path(folder / '1').rglob('*')
  sizes = [file.stat().st_size for file in files if file.is_file()]
  assert sum(sizes) > 80 << 20
  assert max(sizes) < 64 << 20  # the last array that goes in may overfill it


def test_latest_and_best_are_kept(store, folder):
  checkpoints = store()
  for step, reward in ((1, 0.2), (2, 0.6), (3, None), (4, 0.6), (5, 0.1)):
    save(checkpoints, step, reward)
  for opened in (checkpoints, store()):
    opened.wait()
    # Of two equals the earlier.
    assert (opened.best_step, opened.latest_step) == (2, 5)
  assert {p.name for p in folder.iterdir()} == {'2', '5'}
  save(checkpoints := store(), 6, 0.7)
  checkpoints.wait()
  assert {p.name for p in folder.iterdir()} == {'6'}


def test_what_was_not_validated_is_not_the_best(store, folder):
  checkpoints = store()
  save(checkpoints, 1, None)
  checkpoints.wait()
  assert checkpoints.best_step is None and checkpoints.latest_step == 1
  # But all there is when somebody asks for parameters.
  assert checkpoints_lib.params_path(folder) == folder / '1' / 'params'
  save(checkpoints, 2, 0.0)
  save(checkpoints, 3, None)
  checkpoints.wait()
  assert checkpoints.best_step == 2
  assert checkpoints_lib.params_path(folder) == folder / '2' / 'params'


def test_a_step_saved_again_is_replaced(store):
  """As an epoch's last step is, once it has been validated."""
  checkpoints = store()
  save(checkpoints, 1, None, seed=10)
  save(checkpoints, 1, 0.5, seed=20)
  checkpoints.wait()
  assert store().best_step == 1
  blank = tree(0), {'count': jnp.int32(0), 'mu': tree(0)}
  assert_equal(store().restore(1, *blank)[0], tree(20))


@pytest.mark.parametrize('reread', ['parameters', 'all'])
def test_onto_another_mesh(store, folder, reread):
  four = partitioning.make_mesh(2, 2, 1, devices=jax.devices()[:4])
  checkpoints = store()
  checkpoints.save(1, tree(5, four), {'mu': tree(6, four)}, {}, 1.0)
  checkpoints.wait()
  eight = partitioning.make_mesh(fsdp=2, tensor=4)
  want = partitioning.shardings(eight, AXES)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree(0),
    want,
  )
  if reread == 'all':
    params, opt_state, _ = store().restore(1, abstract, {'mu': abstract})
    assert_equal(opt_state['mu'], tree(6))
  else:
    params = checkpoints_lib.restore_params(folder, abstract)
  assert_equal(params, tree(5))
  assert jax.tree.map(lambda x: x.sharding, params) == want


def test_without_the_optimizer(store, folder):
  checkpoints = store()
  save(checkpoints, 1, 0.9)
  save(checkpoints, 2, 0.1)
  checkpoints.drop_optimizer()
  assert not list(folder.glob('*/opt_state'))
  assert (store().best_step, store().latest_step) == (1, 2)
  assert_equal(checkpoints_lib.restore_params(folder, tree(0)), tree(1))


def test_what_may_be_named_as_a_checkpoint(store, folder):
  checkpoints = store()
  save(checkpoints, 9, 0.5)
  save(checkpoints, 10, 0.4)
  checkpoints.wait()
  for path, seed in ((folder, 9), (folder / '9', 9), (folder / '10', 10)):
    expected = folder / str(seed) / 'params'
    assert checkpoints_lib.params_path(path) == expected
    assert_equal(checkpoints_lib.restore_params(path, tree(0)), tree(seed))


def test_what_holds_no_checkpoint(tmp_path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'file').write_text('')
  for name in ('absent', 'empty', 'file'):
    path = tmp_path / name
    assert checkpoints_lib.params_path(path) is None
    with pytest.raises(ValueError, match=f'{path} holds no checkpoint; name'):
      checkpoints_lib.restore_params(path, tree(0))


def test_a_killed_save_is_no_checkpoint(store, folder):
  half = folder / '7.orbax-checkpoint-tmp'
  (half / 'params').mkdir(parents=True)
  # Who only reads leaves it: the save may be going on.
  assert checkpoints_lib.params_path(folder) is None
  assert half.exists()
  checkpoints = store()
  assert checkpoints.latest_step is None
  save(checkpoints, 3, 0.5)
  checkpoints.wait()
  assert {p.name for p in folder.iterdir()} == {'3'}


def test_another_models_checkpoint_is_named(store, folder):
  checkpoints = store()
  save(checkpoints, 1, 0.5)
  checkpoints.wait()
  wider = tree(0) | {'table': jnp.zeros((8, 5))}
  message = r"\['table'\] has shape \(8, 4\), the model wants \(8, 5\)"
  with pytest.raises(ValueError, match=message):
    checkpoints_lib.restore_params(folder, wider)
  biased = tree(0) | {'q_bias': jnp.zeros(4)}
  with pytest.raises(ValueError, match=r"\['q_bias'\] has shape None"):
    checkpoints_lib.restore_params(folder, biased)
  with pytest.raises(ValueError, match=r"\['norm'\].*the model wants None"):
    checkpoints_lib.restore_params(folder, {'table': tree(0)['table']})


def test_rewards_are_where_readers_look(store, folder):
  """`params_path` reads them without Orbax's manager."""
  checkpoints = store()
  save(checkpoints, 1, 0.25)
  checkpoints.wait()
  file = folder / '1' / 'metrics' / 'metrics'
  assert json.loads(file.read_text()) == {'validation_reward': 0.25}


def test_relative_paths_work(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  found = checkpoints_lib.Checkpoints('runs/checkpoints')
  found.save(1, {'w': jnp.ones(3)}, {'m': jnp.zeros(3)}, {}, 0.5)
  found.wait()
  found.close()
  params = checkpoints_lib.restore_params(
    'runs/checkpoints', {'w': jax.ShapeDtypeStruct((3,), jnp.float32)}
  )
  np.testing.assert_array_equal(params['w'], np.ones(3))


def damage(path, how='flip'):
  """Flips a bit in the middle of a file, cuts it, or takes it away."""
  data = bytearray(path.read_bytes())
  half = len(data) // 2
  data[half] ^= 4
  path.write_bytes(data[:half] if how == 'cut' else data)
  if how == 'missing':
    path.unlink()


def largest(folder):
  files = (f for f in folder.rglob('*') if f.is_file())
  return max(files, key=lambda f: f.stat().st_size)


def save_bits(folder):
  """Random ones: when one is flipped, a reader still finds valid data."""
  bits = jax.random.bits(jax.random.key(0), (64, 64), jnp.uint32)
  big = {'w': jax.lax.bitcast_convert_type(bits, jnp.float32)}
  checkpoints = checkpoints_lib.Checkpoints(folder)
  checkpoints.save(7, big, {'mu': big, 'count': jnp.int32(1)}, {}, 0.5)
  checkpoints.close()
  return big, {'mu': big, 'count': jnp.int32(0)}


@pytest.mark.parametrize('item', ['params', 'opt_state'])
def test_a_flipped_bit_is_named(tmp_path, item):
  folder = tmp_path / 'checkpoints'
  params, opt_state = save_bits(folder)
  damage(largest(folder / '7' / item))
  checkpoints = checkpoints_lib.Checkpoints(folder)
  message = (
    rf"/7 is damaged \({item}\['.*w'\] is not what.*; delete that folder"
  )
  with pytest.raises(checkpoints_lib.Damaged, match=message):
    checkpoints.restore(7, params, opt_state)
  checkpoints.close()
  if item == 'opt_state':  # which who reads parameters does not need
    checkpoints_lib.restore_params(folder, params)
  else:
    with pytest.raises(checkpoints_lib.Damaged, match=message):
      checkpoints_lib.restore_params(folder, params)


@pytest.mark.parametrize('how', ['cut', 'missing'])
def test_arrays_that_cannot_be_read(tmp_path, how):
  """In a process of its own: Orbax leaves tasks there that complain late."""
  folder = tmp_path / 'checkpoints'
  save_bits(folder)
  damage(largest(folder / '7' / 'params'), how)
  code = (
    'import sys, jax\nfrom restem_jax import checkpoints\n'
    "want = {'w': jax.ShapeDtypeStruct((64, 64), 'float32')}\n"
    'checkpoints.restore_params(sys.argv[1], want)\n'
  )
  ended = subprocess.run(
    [sys.executable, '-c', code, folder],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': str(runs.ROOT)},
  )
  assert f'Damaged: {folder}/7 is damaged (Encountered error' in ended.stderr


def test_damaged_json_is_named(store, folder):
  checkpoints = store()
  save(checkpoints, 4, 0.5)
  checkpoints.wait()
  step = pathlib.Path(folder / '4')
  progress = step / 'progress' / 'metadata'
  progress.write_text(progress.read_text().replace('1', '2', 1))
  blank = tree(0), {'count': jnp.int32(0), 'mu': tree(0)}
  with pytest.raises(
    checkpoints_lib.Damaged, match='progress is not what was saved'
  ):
    store().restore(4, *blank)
  metrics = step / 'metrics' / 'metrics'
  metrics.write_text(metrics.read_text().replace('0.5', '0.7'))
  for read in (store, lambda: checkpoints_lib.params_path(folder)):
    with pytest.raises(
      checkpoints_lib.Damaged, match='metrics is not what was saved'
    ):
      read()
  damage(metrics, 'cut')
  for read in (store, lambda: checkpoints_lib.params_path(folder)):
    with pytest.raises(checkpoints_lib.Damaged, match='/4 is damaged'):
      read()
  metrics.unlink()
  store()


@pytest.mark.parametrize('sums', ['', '{"params": {}}'])
def test_rewards_of_earlier_versions_have_no_checksum(store, folder, sums):
  checkpoints = store()
  save(checkpoints, 4, 0.5)
  checkpoints.wait()
  file = pathlib.Path(folder / '4' / 'sums' / 'metadata')
  file.write_text(sums) if sums else file.unlink()
  assert store().best_step == 4


def test_checksums_do_not_depend_on_the_mesh():
  one = checkpoints_lib._checksums(tree(3))
  for shape in ((1, 2, 4), (8, 1, 1)):
    mesh = partitioning.make_mesh(*shape)
    assert checkpoints_lib._checksums(tree(3, mesh)) == one
  swapped = tree(3)
  swapped['table'] = swapped['table'][::-1]
  found = checkpoints_lib._checksums(swapped)
  assert found["['table']"] != one["['table']"]
  assert found["['norm']"] == one["['norm']"]
