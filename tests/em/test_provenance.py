import logging

import pytest

from restem_jax.em import provenance

CONFIG = "NUM_ITERATIONS = 2\nSEED = 0\nTASKS = {'a': 1}\n"
VERSIONS = {'jax': '1', 'python': '3'}
PRINTS = {'weights': 'aa', 'problems of digits': 'bb'}


def check(directory, config=CONFIG, versions=VERSIONS, prints=PRINTS):
  provenance.check(directory / 'run', config, versions, prints)
  return (directory / 'run' / 'config.gin').read_text()


def refused(directory, **changes):
  with pytest.raises(ValueError) as caught:
    check(directory, **changes)
  message = str(caught.value)
  assert f'{directory / "run" / "config.gin"} is of another run' in message
  assert 'MODEL_DIR' in message  # what to do
  return message.splitlines()[1:]


def test_the_same_run_is_accepted(directory, caplog):
  text = check(directory)
  assert CONFIG in text
  for part in ('# version: jax 1', '# fingerprint: weights aa'):
    assert part in text
  assert check(directory) == text
  assert not caplog.records


def test_more_iterations_are_no_other_run(directory):
  text = check(directory)
  grown = CONFIG.replace('NUM_ITERATIONS = 2', 'NUM_ITERATIONS = 5')
  assert check(directory, config=grown) == text


def test_samples_of_evaluations_may_be_added(directory):
  text = check(directory)
  added = (
    'from restem_jax.em import sampled\n'
    + CONFIG
    + 'loop.System.sampled = @sampled.SampledEvaluation()\n'
    'sampled.SampledEvaluation.num_samples = 16\n'
  )
  assert check(directory, config=added) == text


def test_another_mesh_is_no_other_run(directory):
  text = check(directory)
  for line in (
    'loop.System.mesh = @partitioning.MeshShape()',
    'partitioning.MeshShape.fsdp = -1',
    'from restem_jax import partitioning',
  ):
    assert check(directory, config=CONFIG + line + '\n') == text
  assert refused(directory, config=CONFIG + 'x.mesh = 1\n')


def test_hosts_of_different_runs_are_refused(directory, monkeypatch):
  """This one is process 1; then it is process 0, and hears of process 1."""
  first = provenance._identity(f'{CONFIG}# fingerprint: weights cc')
  monkeypatch.setattr(provenance.multihost, 'index', lambda: 1)
  monkeypatch.setattr(provenance.multihost, 'first', lambda *_: first)
  with pytest.raises(ValueError, match='process 1 is of another run') as caught:
    check(directory)
  assert '\n  -# fingerprint: weights cc' in str(caught.value)
  assert '\n  +# fingerprint: weights aa' in str(caught.value)
  monkeypatch.undo()
  gather = lambda what, value: [value, False, True]
  monkeypatch.setattr(provenance.multihost, 'gather', gather)
  with pytest.raises(ValueError, match='process 1 is of another run'):
    check(directory)
  assert not (directory / 'run' / 'config.gin').exists()


def test_a_folder_that_a_host_does_not_see(directory, monkeypatch):
  """Process 0 has written the file, and it is not here."""
  lines = lambda what, fn: fn() if what == 'the configuration' else None
  monkeypatch.setattr(provenance.multihost, 'first', lines)
  monkeypatch.setattr(provenance.multihost, 'index', lambda: 1)
  with pytest.raises(ValueError, match='put MODEL_DIR where all hosts see it'):
    check(directory)


def test_a_changed_configuration_is_refused_with_the_difference(directory):
  check(directory)
  changed = CONFIG.replace('SEED = 0', 'SEED = 1')
  assert refused(directory, config=changed) == ['  -SEED = 0', '  +SEED = 1']
  added = CONFIG + 'x.y = 3\n'
  assert refused(directory, config=added) == ['  +x.y = 3']
  assert check(directory)  # the first one still goes on


def test_other_data_or_weights_are_refused(directory):
  check(directory)
  for name in PRINTS:
    assert refused(directory, prints=PRINTS | {name: 'cc'}) == [
      f'  -# fingerprint: {name} {PRINTS[name]}',
      f'  +# fingerprint: {name} cc',
    ]


def test_other_versions_are_only_logged(directory, caplog):
  text = check(directory)
  with caplog.at_level(logging.WARNING):
    assert check(directory, versions=VERSIONS | {'jax': '2'}) == text
  assert [r.getMessage() for r in caplog.records] == [
    'since this run began, changed: version: jax 2'
  ]


def test_what_a_kill_left_is_removed(directory):
  (directory / 'run').mkdir()
  (directory / 'run' / 'config.gin.tmp-12').write_text('half')
  check(directory)
  assert [p.name for p in (directory / 'run').iterdir()] == ['config.gin']
