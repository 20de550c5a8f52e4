"""A pool per tier, shared by the tests of the sandbox."""

import concurrent.futures
import json
import os
import subprocess
import sys

import pytest

from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits

# Enters the namespaces with a view; the code behind it runs as pid 1.
ISOLATE = """
import json, os, sys
from restem_jax.rewards.sandbox import landlock, namespaces, syscalls, view

def isolate(seen):
  uid = 61000 if os.getuid() == 0 else None
  try:
    namespaces.isolate(syscalls.table(), seen, uid)
  except OSError as e:
    sys.exit(f'refused: {e}')
  pid = os.fork()
  if pid:
    os.waitpid(pid, 0)
    os._exit(0)
  return uid
"""


@pytest.fixture
def confined():
  """Runs code that may call `isolate`; the JSON that it prints."""

  def run(code, *arguments, stdin=None):
    result = subprocess.run(
      [sys.executable, '-c', ISOLATE + code, *arguments],
      input=json.dumps(stdin),
      capture_output=True,
      text=True,
    )
    if 'refused' in result.stderr:
      pytest.skip(f'no namespaces here: {result.stderr}')
    return json.loads(result.stdout)

  return run


@pytest.fixture(scope='session')
def secret():
  """In the host's environment before any server starts."""
  os.environ['SBX_SECRET'] = 'hunter2'
  yield 'hunter2'
  del os.environ['SBX_SECRET']


def started(tier, **kwargs):
  try:
    return SandboxPool(tiers=(tier,), **kwargs)
  except RuntimeError as e:
    pytest.skip(f'this machine has no tier {tier}: {e}')


@pytest.fixture(scope='session', params=[1, 2], ids=['tier1', 'tier2'])
def pool(request, secret):
  """Each tier that this machine gives."""
  pool = started(request.param, slots=2)
  yield pool
  pool.close()


@pytest.fixture
def fresh_pool():
  """A pool of one server in the best tier, for tests that break it."""
  pool = SandboxPool(slots=1)
  yield pool
  pool.close()


@pytest.fixture
def wrong_verdicts():
  """Runs {name: (suite, program, statuses that are right)}; what isn't right."""

  def run(pool, programs):
    def judge(case):
      suite, program, _ = case
      return pool.judge(program, suite, Limits(wall_s=4.0))

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
      outcomes = list(threads.map(judge, programs.values()))
    return {
      name: outcome
      for (name, case), outcome in zip(programs.items(), outcomes, strict=True)
      if outcome.status not in case[2]
    }

  return run
