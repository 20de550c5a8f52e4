"""One process alone, and real ones that meet, refuse and fail.

Whole runs of several processes are in em/test_hosts.py.
"""

import os
import socket
import subprocess
import sys

import pytest
import runs

from restem_jax import multihost
from restem_jax.meetings import Hosts

# What each process does, by its index `p`, with `multihost` at hand.
_PROCESS = """
import dataclasses, os, sys
from restem_jax import main, multihost
p, num, port, timeout = map(int, sys.argv[1:])
options = multihost.Options(host_timeout=timeout)
if 'SLURM_JOB_ID' not in os.environ:
  options = dataclasses.replace(options, process_count=num, process_index=p,
    coordinator_address=f'127.0.0.1:{port}')
def work():
  with multihost.started(options):
BODY
try:
  work()
except BaseException:
  main._leave_hosts(3)
  raise
"""


def free_port(ports=(0,)) -> int:
  """The first of `ports` that nobody listens at; 0 stands for any."""
  for port in ports:
    try:
      with socket.create_server(('127.0.0.1', port)) as server:
        return server.getsockname()[1]
    except OSError:
      continue
  raise AssertionError('every port is taken')


def start(body, num=2, only=None, timeout=20, environment=lambda p: {}):
  """(exit code, stdout, stderr) of each process that runs `body`."""
  port = free_port()
  lines = ''.join(f'    {line}\n' for line in body.strip().splitlines())
  code = _PROCESS.replace('BODY\n', lines)
  started = [
    subprocess.Popen(
      [sys.executable, '-c', code, *map(str, (p, num, port, timeout))],
      env=os.environ | {'PYTHONPATH': str(runs.ROOT)} | environment(p),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for p in (range(num) if only is None else only)
  ]
  ended = [process.communicate(timeout=200) for process in started]
  return [
    (process.returncode, out, err)
    for process, (out, err) in zip(started, ended, strict=True)
  ]


def test_alone():
  assert (multihost.index(), multihost.count()) == (0, 1)
  assert multihost.is_first() and not multihost.failed()
  assert multihost.share([3, 4, 5]) == [3, 4, 5]
  assert multihost.gather('x', 7) == [7]
  assert multihost.first('x', lambda: (1, 2)) == (1, 2)
  assert multihost.any_host(True) and not multihost.any_host(False)
  multihost.barrier('x')


def test_shares(monkeypatch):
  """Together they are all, in every number of hosts."""
  for count in (1, 2, 3, 5):
    parts = []
    for index in range(count):
      monkeypatch.setattr(multihost, '_hosts', Hosts(None, index, count))
      parts += multihost.share(range(4))
    assert sorted(parts) == [0, 1, 2, 3]


def test_two_processes():
  body = """
print(multihost.gather('a', p + 1))
print(multihost.first('b', lambda: f'of {p}'), multihost.share(range(5)))
print([multihost.any_host(p == i) for i in range(3)])
"""
  for p, (code, out, err) in enumerate(start(body)):
    assert code == 0, err
    assert [x for x in out.splitlines() if 'Gloo' not in x] == [
      '[1, 2]',
      f'of 0 {[[0, 2, 4], [1, 3]][p]}',
      '[True, True, False]',
    ]


def test_slurm_says_who_is_who():
  # jax takes the port from the job's number.
  port = free_port(range(61440, 65536))

  def slurm(p):
    return {
      'SLURM_JOB_ID': str(port - 61440),
      'SLURM_STEP_NODELIST': 'localhost',
      'SLURM_NTASKS': '2',
      'SLURM_PROCID': str(p),
      'SLURM_LOCALID': str(p),
      'SLURM_STEP_NUM_NODES': '1',
      'SLURM_STEP_TASKS_PER_NODE': '1(x2)',
    }

  body = """
print(multihost.index(), multihost.gather('who', p))
print(multihost.jax.config._read('jax_cuda_visible_devices'))
"""
  for p, (code, out, err) in enumerate(start(body, environment=slurm)):
    assert code == 0, err
    # One process on a node has all GPUs of it, not the first.
    assert {f'{p} [0, 1]', 'all'} <= set(out.splitlines())


@pytest.mark.parametrize(
  ('environment', 'devices'),
  [
    ({'SLURM_STEP_TASKS_PER_NODE': '1'}, []),
    ({'SLURM_STEP_TASKS_PER_NODE': '1(x16)'}, []),
    ({'SLURM_STEP_TASKS_PER_NODE': '8(x2)'}, None),
    ({'SLURM_STEP_TASKS_PER_NODE': '1,2'}, None),
    ({'SLURM_STEP_TASKS_PER_NODE': '1', 'JAX_LOCAL_DEVICE_IDS': '3'}, None),
    ({'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}, []),
    ({'OMPI_COMM_WORLD_LOCAL_SIZE': '8'}, None),
    ({}, None),
  ],
)
def test_a_process_has_all_devices_of_a_node_that_is_its_own(
  monkeypatch, environment, devices
):
  for name in (
    'SLURM_STEP_TASKS_PER_NODE',
    'OMPI_COMM_WORLD_LOCAL_SIZE',
    'JAX_LOCAL_DEVICE_IDS',
  ):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert multihost._devices() == devices


@pytest.mark.slow('two starts of two processes')
def test_a_failure_ends_all_with_its_name():
  body = """
if p == 1: raise KeyError('broken')
multihost.barrier('never')
"""
  (code, _, err), (other, _, traceback) = start(body)
  assert (code, other) == (1, 3)
  assert 'error: process 1 (' in err
  assert "failed: KeyError: 'broken'; the others stop. Run the same" in err
  assert "KeyError: 'broken'" in traceback
  # Process 0, which holds the store.
  body = body.replace('p == 1', 'p == 0')
  (other, _, _), (code, _, err) = start(body)
  assert (code, other) == (1, 3)
  assert "failed: KeyError: 'broken'" in err


@pytest.mark.slow('waits for processes that never come')
@pytest.mark.parametrize(
  'only, words',
  [
    ([0, 2], 'process 1 did not start within 4 s; start the same command'),
    ([1], 'process 0 did not start within 4 s: nobody answers at 127.0.0.1:'),
  ],
)
def test_who_does_not_start_is_named(only, words):
  for code, out, err in start('print("met")', num=3, only=only, timeout=4):
    assert code == 1 and 'met' not in out
    assert words in err and 'Check failure stack trace' not in err


@pytest.mark.slow('waits until a process counts as silent')
@pytest.mark.parametrize('how', ['SIGKILL', 'SIGSTOP'])
def test_the_end_of_process_0(how):
  """Killed, its store goes on; a whole machine that hangs takes it along."""
  body = f"""
multihost.barrier('all are here')
if p == 0:
  import signal
  from jax._src import distributed
  number = signal.{how}
  if number == signal.SIGSTOP:
    os.kill(distributed.global_state.service._process.pid, number)
    if os.fork() == 0:  # what is stopped must be killed in the end
      import time
      time.sleep(15)
      os.kill(distributed.global_state.service._process.pid, signal.SIGKILL)
      os.kill(os.getppid(), signal.SIGKILL)
      os._exit(0)
  os.kill(os.getpid(), number)
multihost.barrier('never')
"""
  (code, _, _), *others = start(body, num=3, timeout=4)
  assert code == -9
  for code, _, err in others:
    assert code == 1 and 'Check failure stack trace' not in err
    assert 'error: process 0 (' in err and 'has been silent for 4 s' in err
    assert 'Run the same command on all hosts again' in err


def test_an_environment_that_does_not_say_it_all(monkeypatch):
  for name in (
    'SLURM_JOB_ID',
    'SLURM_STEP_TASKS_PER_NODE',
    'OMPI_MCA_orte_hnp_uri',
    'TPU_WORKER_ID',
  ):
    monkeypatch.delenv(name, raising=False)
  called = []
  monkeypatch.setattr(
    multihost.jax.distributed,
    'initialize',
    lambda *args, **kwargs: called.append(args) or raise_value_error(),
  )
  with pytest.raises(ValueError, match='write --coordinator_address=HOST:PORT'):
    with multihost.started(multihost.Options()):
      pass
  assert called == [(None, None, None, None)]


def raise_value_error():
  raise ValueError('coordinator_address should be defined.')
