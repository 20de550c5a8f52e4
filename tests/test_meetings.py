"""Meetings over a store in memory, each process a thread."""

from concurrent import futures
import threading
import time

import jax
import pytest

from restem_jax.meetings import Hosts, Missing, Options


class Store:
  """jax's key-value store, as far as it is used."""

  def __init__(self):
    self.values: dict[str, str] = {}
    self.changed = threading.Condition()
    self.gone = False

  def check(self):
    if self.gone:
      raise jax.errors.JaxRuntimeError('UNAVAILABLE: Socket closed')

  def key_value_set(self, key, value, allow_overwrite=False):
    with self.changed:
      self.check()
      if key in self.values and not allow_overwrite:
        raise jax.errors.JaxRuntimeError(f'ALREADY_EXISTS: {key}')
      self.values[key] = value
      self.changed.notify_all()

  def blocking_key_value_get(self, key, timeout_in_ms):
    with self.changed:
      self.changed.wait_for(
        lambda: self.gone or key in self.values, timeout_in_ms / 1000
      )
      self.check()
      if key not in self.values:
        raise jax.errors.JaxRuntimeError('DEADLINE_EXCEEDED: GetKeyValue()')
      return self.values[key]

  def key_value_dir_get(self, key):
    with self.changed:
      self.check()
      return [(k, v) for k, v in self.values.items() if k.startswith(key + '/')]

  def key_value_delete(self, key):
    with self.changed:
      for k in [k for k in self.values if k.startswith(key + '/')]:
        del self.values[k]

  def go(self):
    """Process 0 has died."""
    with self.changed:
      self.gone = True
      self.changed.notify_all()


def make(num, store=None, leave=None, **timeouts):
  store = Store() if store is None else store
  options = Options(**timeouts)
  return [Hosts(store, p, num, options, leave) for p in range(num)]


def on_all(hosts, fn):
  """`fn` of each, at once; the results by index."""
  with futures.ThreadPoolExecutor(len(hosts)) as executor:
    return list(executor.map(fn, hosts))


def test_alone():
  hosts = Hosts()
  assert hosts.gather('x', {'a': 1}) == [{'a': 1}]
  hosts.stop_all('nothing happens')
  hosts.close()


def test_all_get_what_each_brings():
  hosts = make(3)
  assert (
    on_all(hosts, lambda h: h.gather('one', h.index * 2)) == [[0, 2, 4]] * 3
  )
  many = lambda h: [h.gather(f'meeting {i}', [i, h.index]) for i in range(20)]
  expected = [[[i, p] for p in range(3)] for i in range(20)]
  assert on_all(hosts, many) == [expected] * 3
  # The store does not grow with the meetings.
  assert len(hosts[0]._store.values) <= 8


def test_who_is_late_is_named():
  hosts = make(4, barrier_timeout=0.3)
  on_all(hosts, Hosts.introduce)
  late = {1, 3}

  def meet(host):
    if host.index not in late:
      with pytest.raises(Missing) as caught:
        host.gather('iteration 1: score', None)
      return str(caught.value)

  for message in [m for m in on_all(hosts, meet) if m]:
    assert message.startswith('iteration 1: score: process 1 (')
    assert '), process 3 (' in message and 'process 2' not in message
    assert 'did not come within 0.3 s; run the same command' in message


def test_hosts_at_different_places():
  def meet(host):
    with pytest.raises(Missing, match='start all hosts with the same command'):
      host.gather('here' if host.index else 'there', None)

  on_all(make(2), meet)


@pytest.fixture
def left():
  """(reasons by the order of leaving, a `leave` that notes them)."""
  reasons = []
  return reasons, reasons.append


def eventually(condition, seconds=20):
  start = time.monotonic()
  while not condition():
    assert time.monotonic() - start < seconds
    time.sleep(0.02)


def test_a_silent_host_is_named_to_all(left):
  reasons, leave = left
  hosts = make(3, leave=leave, host_timeout=1.5)
  on_all(hosts, Hosts.introduce)
  for host in hosts[:2]:  # the third never says that it lives
    host.watch()
  eventually(lambda: len(reasons) == 2)
  for reason in reasons:
    assert reason.startswith('process 2 (')
    assert reason.endswith(') has been silent for 1.5 s')


def test_process_1_says_it_of_process_0(left):
  reasons, leave = left
  hosts = make(3, leave=leave, host_timeout=1.5)
  on_all(hosts, Hosts.introduce)
  for host in hosts[1:]:
    host.watch()
  eventually(lambda: len(reasons) == 2)
  for reason in reasons:
    assert reason.startswith('process 0 (') and 'silent for 1.5 s' in reason


def test_a_store_that_does_not_answer(left):
  """As when process 0's machine has lost its power: calls hang."""
  reasons, leave = left
  hosts = make(2, leave=leave, host_timeout=1.5)
  hosts[1].watch()
  with hosts[1]._store.changed:  # its lock
    eventually(lambda: reasons)
  assert reasons == [
    'process 0, which all others meet at, has been silent for 1.5 s'
  ]


def test_nobody_is_silent_while_this_process_is_stopped(monkeypatch):
  """All of them are, perhaps: a suspended machine."""
  clock = [0.0]
  monkeypatch.setattr('restem_jax.meetings.time.monotonic', lambda: clock[0])
  (host, _) = make(2, host_timeout=10)
  seen = {}

  def silent_at(now):
    clock[0] = now
    host._pass_time()
    return host._silent(seen)

  assert not any(map(silent_at, (1, 2, 3, 1000)))
  *_, silent = map(silent_at, range(1001, 1020))
  assert silent == 'process 0, process 1'


def test_the_end_of_process_0(left):
  reasons, leave = left
  store = Store()
  hosts = make(2, store, leave)
  hosts[1].watch()
  store.go()
  eventually(lambda: reasons)
  assert reasons == ['process 0, which all others meet at, is gone']


def test_nobody_leaves_after_the_end(left):
  reasons, leave = left
  store = Store()
  hosts = make(2, store, leave, host_timeout=1.5)
  for host in hosts:
    host.watch()
  on_all(hosts, Hosts.close)
  store.go()
  time.sleep(0.1)
  assert not reasons and not any(
    thread.is_alive() for h in hosts for thread in h._threads
  )


@pytest.mark.parametrize(
  'error, reason',
  [
    (KeyError('x'), "process 1 failed: KeyError: 'x'"),
    (Missing('select: process 0 did not come'), 'select: process 0 did not co'),
    (ValueError('a\nb'), 'process 1 failed: ValueError: a'),
  ],
)
def test_a_failure_stops_all(left, error, reason):
  reasons, leave = left
  hosts = make(2, leave=leave)
  hosts[0].watch()
  hosts[1].fail(error)
  eventually(lambda: reasons)
  assert reasons[0].startswith(reason)


def test_a_failed_collective_waits_for_the_culprits_name(left):
  """Its host is not to blame, and only the heartbeat knows who is."""
  reasons, leave = left
  hosts = make(3, leave=leave, host_timeout=1.5)
  for host in hosts[:2]:
    host.watch()
  start = time.monotonic()
  hosts[1].fail(ValueError('UNKNOWN: Gloo AllGather failed: Connection closed'))
  assert time.monotonic() - start > 1.5
  # In a process of its own, leaving would have ended the wait.
  assert set(reasons) == {'process 2 has been silent for 1.5 s'}
