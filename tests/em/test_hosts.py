"""Two and four processes make the run that one makes; some of them die.

The processes are real: each is the command line, with one CPU device.
"""

import json
import shutil
import signal

import numpy as np
import pytest
import runs

from restem_jax import main

KILLED = -signal.SIGKILL
ROWS = '--gin.trainer.Trainer.batch_size=4'


@pytest.fixture(scope='module')
def flags(flags):
  """A batch that four hosts can share."""
  return [*flags, ROWS]


@pytest.fixture(scope='module')
def one(tmp_path_factory, flags, files):
  """(folder, files) of the run of one process."""
  folder = tmp_path_factory.mktemp('one') / 'run'
  assert main.main([*flags, runs.in_folder(folder)]) == 0
  return folder, files(folder)


def trained(found):
  """The parameters of all checkpoints, by step and name."""
  return {
    (step, name): np.frombuffer(data, np.float32)
    for step, arrays in found.items()
    if '/checkpoints/' in step and isinstance(arrays, dict)
    for name, data in arrays.items()
  }


def check_same(found, expected):
  """All files are equal; what was trained, to a tenth of one step.

  Hosts add gradients in another order, and Adam divides by the gradient, be
  it mere rounding. Log-probabilities of the trained policy differ alike.
  """
  assert sorted(found) == sorted(expected)
  one, many = trained(expected), trained(found)
  assert one.keys() == many.keys()
  for key in one:
    np.testing.assert_allclose(many[key], one[key], atol=1e-3, err_msg=str(key))
  rest = [
    name
    for name in found
    if '/checkpoints/' not in name
    and not ('iteration_01/eval/' in name and '/samples-' in name)
  ]
  assert len(rest) > 30
  assert [name for name in rest if found[name] != expected[name]] == []
  name = 'iteration_01/checkpoints/improve.json'
  assert json.loads(found[name]) == json.loads(expected[name])


def without_logprobs(found):
  """Where a mesh splits sums, they differ in the last digit; nor its flags."""
  rows = {}
  for name, data in found.items():
    if '/samples-' in name and name.endswith('.done'):
      data = None
    elif '/samples-' in name:
      samples = [json.loads(line) for line in data.splitlines()]
      data = [sample | {'logprobs': None} for sample in samples]
    elif name == 'config.gin':
      data = None
    rows[name] = data
  return rows


def check_stopped(ended, dead, word):
  """All but the dead one ended by themselves, and said whose fault it is."""
  for p, process in enumerate(ended):
    assert process.returncode != 0, process.stderr
    if p != dead:
      assert process.returncode == 1, process.stderr
      assert f'error: process {dead} (' in process.stderr
      assert word in process.stderr
      assert 'Run the same command on all hosts again' in process.stderr


@pytest.mark.slow('35 s: two starts of two processes, each with a death')
def test_killed_on_two_hosts_and_ended_by_one(tmp_path, flags, files, one):
  """In the E-step, then in the M-step; another number of hosts goes on."""
  folder = tmp_path / 'run'
  flags = [*flags, runs.in_folder(folder)]
  samples = folder / 'iteration_01' / 'samples'
  # Process 1 has shards 1 and 3 of four.
  ended = runs.on_hosts(flags, 2, at='samples-00003.jsonl', host_timeout=6)
  assert ended[1].returncode == KILLED
  check_stopped(ended, 1, 'has been silent for 6 s')
  assert (samples / 'samples-00001.jsonl.done').exists()
  assert not (samples / 'samples-00003.jsonl').exists()
  assert not list(folder.rglob('improve.json'))
  # The first epoch is saved, the second's checkpoint is being written.
  ended = runs.on_hosts(flags, 2, at='save', count=2, host_timeout=6)
  assert ended[1].returncode == KILLED
  check_stopped(ended, 1, 'has been silent for 6 s')
  steps = folder / 'iteration_01' / 'checkpoints'
  assert list(steps.glob('*/commit_success.txt'))
  assert not (steps / 'improve.json').exists()
  assert main.main(flags) == 0
  check_same(files(folder), one[1])


@pytest.mark.slow('two runs of two processes each')
def test_sigterm_on_one_of_two_hosts(tmp_path, flags, files, one):
  """Both save the same step and exit with 0; two go on, as one would."""
  folder = tmp_path / 'run'
  ignored = shutil.ignore_patterns('checkpoints', 'metrics', 'summary.json')
  shutil.copytree(one[0], folder, ignore=ignored)
  shutil.rmtree(folder / 'iteration_01' / 'eval')
  flags = [*flags, runs.in_folder(folder)]
  ended = runs.on_hosts(flags, 2, at='save', signal_name='SIGTERM')
  assert [p.returncode for p in ended] == [0, 0], [p.stderr for p in ended]
  for process in ended:
    assert 'saved at step' in process.stderr
    assert 'the same command goes on from there' in process.stderr
  assert not list(folder.rglob('improve.json'))
  ended = runs.on_hosts(flags, 2)
  assert [p.returncode for p in ended] == [0, 0], [p.stderr for p in ended]
  check_same(files(folder), one[1])
  # One writes, logs and shows the table.
  assert 'validation reward' in ended[0].stdout and '│' not in ended[1].stdout
  assert 'improve: epoch' in ended[0].stderr
  assert 'improve: epoch' not in ended[1].stderr
  lines = (folder / 'metrics' / 'improve_01.jsonl').read_text().splitlines()
  steps = [row['step'] for row in map(json.loads, lines) if 'loss' in row]
  assert steps == sorted(set(steps))


@pytest.mark.slow('two runs of four processes each')
def test_four_hosts(tmp_path, flags, files, one):
  folder = tmp_path / 'run'
  flags = [*flags, runs.in_folder(folder)]
  # Process 0, at which all others meet.
  ended = runs.on_hosts(
    flags, 4, struck=0, at='verdicts-00000.jsonl', host_timeout=6
  )
  assert ended[0].returncode == KILLED
  check_stopped(ended, 0, 'has been silent for 6 s')
  ended = runs.on_hosts(flags, 4)
  assert [p.returncode for p in ended] == [0] * 4, [p.stderr for p in ended]
  check_same(files(folder), one[1])


@pytest.mark.slow('a run of two processes on a mesh of several devices')
def test_two_hosts_of_two_devices(tmp_path, flags, files, one, monkeypatch):
  """Parameters are split over the hosts, too."""
  monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '2')
  folder = tmp_path / 'run'
  flags = [*flags, '--gin_file=meshes/fsdp.gin', runs.in_folder(folder)]
  ended = runs.on_hosts(flags, 2)
  assert [p.returncode for p in ended] == [0, 0], [p.stderr for p in ended]
  found = without_logprobs(files(folder))
  check_same(found, without_logprobs(one[1]))
