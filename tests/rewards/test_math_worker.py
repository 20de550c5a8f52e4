"""The worker's requests, asked of a real worker process."""

import pytest

from restem_jax.rewards import pool

MODULE = 'restem_jax.rewards.math_worker'


@pytest.fixture(scope='module')
def workers():
  found = pool.WorkerPool(
    MODULE, num_workers=1, timeout_s=20.0, memory_limit=2 << 30
  )
  yield found
  found.close()


@pytest.mark.parametrize(
  ('request_', 'value'),
  [
    ({'same': ['x+x', '2*x']}, True),
    ({'same': ['x+x', '3*x']}, False),
    ({'readable': '\\sqrt{2}'}, True),
  ],
)
def test_answers(workers, request_, value):
  reply = workers.submit(request_).result()
  assert (reply.status, reply.value) == ('ok', value), reply


def test_an_unknown_request_is_an_error_and_the_worker_lives(workers):
  assert workers.submit({'other': 1}).result().status == 'error'
  assert workers.submit({'same': ['x', 'x']}).result().value is True
