"""Killed at any moment, the same command ends with the same files."""

import shutil
import signal

import pytest
import runs

from restem_jax import main

KILLED = -signal.SIGKILL


@pytest.mark.slow('40 s: a start of the process for each stage')
def test_killed_in_every_stage(tmp_path, flags, files, expected):
  """One run, struck in each stage in turn, each time begun again."""
  folder = tmp_path / 'run'
  flags = [*flags, runs.in_folder(folder)]
  first = folder / 'iteration_01'
  for at, count, done, left in (
    # Two of four shards are there, the third is half-written.
    ('samples-00002.jsonl', 1, 'samples/samples-00001.jsonl', 'samples/*.tmp-*'),
    # Graded beside sampling: which verdicts are there by then is open.
    ('verdicts-00002.jsonl', 1, 'samples/samples-00002.jsonl.done', 'samples/*.tmp-*'),
    # The first epoch is saved, the second's checkpoint is being written.
    ('save', 2, 'checkpoints/*/commit_success.txt', 'checkpoints/*'),
    # Trained to the end, but nothing says so yet.
    ('improve.json', 1, 'checkpoints/*/opt_state', 'checkpoints/*.tmp-*'),
    # The first of the test split's two shards is there.
    ('samples-00001.jsonl', 1, 'eval/jsonl-test/samples-00000.jsonl', 'eval/*/*.tmp-*'),
  ):  # fmt: skip
    ended = runs.command(flags, at=at, count=count)
    assert ended.returncode == KILLED, (at, ended.stderr)
    assert list(first.glob(done)), at
    assert list(first.glob(left)), at
    assert (folder / 'summary.json').exists(), at  # of the base model
  assert main.main(flags) == 0
  runs.check_same(files(folder), expected)


@pytest.mark.slow('a process of six seconds for each place')
@pytest.mark.parametrize(
  'at, count',
  [
    ('config.gin', 1),
    ('samples-00001.jsonl', 1),  # while the base model is evaluated
    ('report.json', 2),
    ('summary.json', 1),
    ('samples-00003.jsonl.done', 1),  # a shard without its marker
    ('verdicts-00003.jsonl.done', 1),
    ('selected.arrayrecord', 1),
    ('select.json', 1),
    ('save', 1),
    ('save', 3),
    ('report.json', 4),
    ('summary.json', 2),
  ],
)
def test_killed_once(tmp_path, flags, files, expected, at, count):
  flags = [*flags, runs.in_folder(tmp_path / 'run')]
  ended = runs.command(flags, at=at, count=count)
  assert ended.returncode == KILLED, ended.stderr
  assert main.main(flags) == 0
  runs.check_same(files(tmp_path / 'run'), expected)


@pytest.mark.slow('25 s: a start of the process, and five modes')
def test_sigterm_in_improve(begun, flags, files, expected, capsys):
  """Preemption: the state is saved, and nothing is lost or done twice."""
  flags = [*flags, runs.in_folder(begun)]
  ended = runs.command(
    [*flags, '--run_mode=improve', '--preempted_exit_code=9'],
    at='save',
    signal_name='SIGTERM',
  )
  assert ended.returncode == 9, ended.stderr
  assert 'saved at step' in ended.stderr
  assert 'the same command goes on from there' in ended.stderr
  steps = begun / 'iteration_01' / 'checkpoints'
  assert not (steps / 'improve.json').exists()
  # Damaged meanwhile, it is not gone on from.
  (step,) = (p for p in steps.iterdir() if p.name.isdecimal())
  data = max(step.rglob('d/*'), key=lambda p: p.stat().st_size)
  whole = data.read_bytes()
  half = len(whole) // 2
  data.write_bytes(whole[:half] + bytes([whole[half] ^ 4]) + whole[half + 1 :])
  assert main.main(flags) == 2
  err = capsys.readouterr().err
  assert f'error: {step} is damaged (' in err and 'delete that folder' in err
  assert 'Traceback' not in err
  data.write_bytes(whole)
  assert main.main(flags) == 0
  runs.check_same(files(begun), expected)


@pytest.mark.parametrize('kind', ['samples', 'verdicts'])
@pytest.mark.parametrize('damage', ['flipped', 'cut'])
def test_a_damaged_shard_is_named_and_redone(
  begun, flags, kind, damage, capsys
):
  folder = begun / 'iteration_01' / 'samples'
  path = folder / f'{kind}-00001.jsonl'
  before = {p.name: p.read_bytes() for p in folder.iterdir()}
  data = path.read_bytes()
  half = len(data) // 2
  flipped = data[:half] + bytes([data[half] ^ 4]) + data[half + 1 :]
  path.write_bytes(flipped if damage == 'flipped' else data[:half])
  mode = 'generate' if kind == 'samples' else 'score'
  flags = [*flags, runs.in_folder(begun), f'--run_mode={mode}']
  assert main.main(flags) == 0
  err = capsys.readouterr().err
  assert f'{path} is damaged: expected sha256' in err
  assert 'it will be redone' in err
  assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_changed_run_is_refused(begun, flags, capsys):
  flags = [*flags, runs.in_folder(begun)]

  def refused(*more):
    assert main.main([*flags, *more]) == 2
    err = capsys.readouterr().err
    assert f'error: {begun / "config.gin"} is of another run' in err
    assert 'Traceback' not in err
    return [line.strip() for line in err.splitlines() if line[:3] in ('  -', '  +')]  # fmt: skip

  assert refused('--gin.NUM_SAMPLES=7') == [
    '-NUM_SAMPLES = 16',
    '+NUM_SAMPLES = 7',
  ]
  assert refused('--gin.policies.Policy.temperature=0.9')
  # Where it lies is no part of what a run is.
  moved = shutil.move(begun, begun.parent / 'moved')
  flags[-1] = runs.in_folder(moved)
  assert main.main([*flags, '--run_mode=select']) == 0
  # The content of the problems and the weights is, not only their paths.
  path = moved / 'config.gin'
  text = path.read_text()
  for name in ('weights', 'problems of jsonl'):
    start = text.index(f'# fingerprint: {name} ') + len(
      f'# fingerprint: {name} '
    )
    path.write_text(text[:start] + '00' + text[start + 2 :])
    assert main.main([*flags, '--run_mode=select']) == 2
    err = capsys.readouterr().err
    assert f'-# fingerprint: {name} 00' in err
