"""A disk that fills up: one line, and the run goes on once there is room."""

import subprocess

import pytest
import runs

from restem_jax import main


@pytest.fixture
def disk(tmp_path):
  """Makes a disk of a size; gives back its folder and how to resize it."""
  folder = tmp_path / 'disk'
  folder.mkdir()

  def mount(options):
    command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0

  if not mount('size=16k'):
    pytest.skip('mounting a small disk takes root')
  yield folder, lambda size: mount(f'remount,size={size}')
  subprocess.run(['umount', '-l', str(folder)], check=True)


@pytest.mark.slow('45 s: four starts of the process')
def test_a_full_disk(disk, flags, files, expected):
  folder, resize = disk
  flags = [*flags, runs.in_folder(folder / 'run')]
  told = []
  for size in ('48k', '160k', '512k', '1m'):
    assert resize(size)
    ended = runs.command(flags)
    assert ended.returncode == 1, ended.stderr[-3000:]
    # Threads that end with the run (graders', Orbax's) may have lines too.
    lines = ended.stderr.splitlines()
    told += [x for x in lines if x.startswith('error: a disk is full (')]
  assert len(told) == 4
  # The first while a shard is written, the last while Orbax saves.
  assert 'Errno 28' in told[0]
  assert 'iteration_01/checkpoints' in told[-1]
  assert resize('64m')
  assert main.main(flags) == 0
  runs.check_same(files(folder / 'run'), expected)
