"""A pool per tier, shared by the tests of the sandbox."""

import os

import pytest

from restem_jax.rewards.sandbox.host import SandboxPool


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
