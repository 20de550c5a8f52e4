"""A pool per tier, shared by the tests of the sandbox."""

import concurrent.futures
import os

import pytest

from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits


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
