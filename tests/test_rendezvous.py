"""Real places, and processes that come as threads; the store is jax's."""

from concurrent import futures
import socket
import time
from typing import Any

from jax._src.lib import _jax  # pyright: ignore
import pytest

from restem_jax.rendezvous import meet, Missing, Place

STORE = {'heartbeat_timeout': 20, 'shutdown_timeout': 5}


@pytest.fixture
def port():
  with socket.create_server(('127.0.0.1', 0)) as server:
    return server.getsockname()[1]


@pytest.fixture
def open_place(port):
  """Opens the place of so many processes; it ends with the test."""
  opened = []

  def start(count, timeout=20.0):
    opened.append(Place(f'[::]:{port}', count, timeout, **STORE))
    return f'127.0.0.1:{port}'

  yield start
  for place in opened:
    place.shutdown()


def come(address, who, count=None, timeout=20.0) -> list[Any]:
  """What each gets: a connection, or the message of its error."""

  def one(index):
    try:
      return meet(address, index, count or len(who), timeout)
    except Missing as e:
      return str(e)

  with futures.ThreadPoolExecutor(len(who)) as executor:
    return list(executor.map(one, who))


def test_all_meet_and_the_store_is_there(open_place):
  address = open_place(2)
  kept = come(address, [0, 1])
  clients = [
    _jax.get_distributed_runtime_client(address, p, init_timeout=10)
    for p in (0, 1)
  ]
  with futures.ThreadPoolExecutor(2) as executor:
    list(executor.map(lambda client: client.connect(), clients))
  clients[0].key_value_set('a', 'b')
  assert clients[1].blocking_key_value_get('a', 1000) == 'b'
  with futures.ThreadPoolExecutor(2) as executor:
    list(executor.map(lambda client: client.shutdown(), clients))
  for connection in kept:
    connection.close()


def test_who_does_not_come_is_named_to_all(open_place):
  address = open_place(4, timeout=1.5)
  for message in come(address, [0, 2], count=4):
    assert message.startswith('process 1, 3 did not start within 1.5 s; start')


def test_nobody_is_there(port):
  (message,) = come(f'127.0.0.1:{port}', [1], timeout=0.5)
  assert message.startswith('process 0 did not start within 0.5 s: nobody')


def test_somebody_else_is_there(port):
  with socket.create_server(('127.0.0.1', port)) as server:
    with futures.ThreadPoolExecutor(1) as executor:
      coming = executor.submit(come, f'127.0.0.1:{port}', [1])
      connection, _ = server.accept()
      connection.sendall(b'HTTP/1.1 400 Bad Request\r\n')
      connection.close()
      (message,) = coming.result()
  assert 'or what else is at 127.0.0.1' in message


@pytest.mark.parametrize(
  'who, counts, words',
  [
    ([0, 1, 1], [3, 3, 3], 'two processes have --process_index=1, on'),
    ([0, 1], [3, 2], ') has --process_count=2, process 0 has 3; write the'),
  ],
)
def test_who_is_no_run(open_place, who, counts, words):
  address = open_place(3)
  with futures.ThreadPoolExecutor(3) as executor:
    coming = [
      executor.submit(come, address, [index], count)
      for index, count in zip(who, counts, strict=True)
    ]
    messages = [message for one in coming for message in one.result()]
  assert all(words in message for message in messages)


def test_one_that_ended_may_come_again(open_place):
  address = open_place(3)
  with futures.ThreadPoolExecutor(1) as executor:
    coming = executor.submit(come, address, [0], 3)
    host, port = address.split(':')
    _send(host, port, b'GET / HTTP/1.1')  # somebody who looks for open ports
    _send(host, port, b'{"index": 1, "count": 3, "host": "killed"}')
    kept = come(address, [1, 2], 3) + coming.result()
  for connection in kept:
    assert isinstance(connection, socket.socket)
    connection.close()


def _send(host: str, port: str, data: bytes) -> None:
  deadline = time.monotonic() + 20
  while True:
    try:
      with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(data)
        time.sleep(0.2)
        return
    except ConnectionRefusedError:
      assert time.monotonic() < deadline
      time.sleep(0.05)


def test_a_port_that_is_taken(capfd):
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    Place(f'[::]:{port}', 1, 0.5, **STORE).shutdown()
  err = capfd.readouterr().err
  assert f'error: cannot listen at port {port} of this host (Address' in err
  assert 'write another port in --coordinator_address' in err


def test_it_outlives_process_0(port):
  """Whose end it sees by its stdin; it goes when the others have."""
  place = Place(f'[::]:{port}', 2, 20.0, **STORE)
  kept = come(f'127.0.0.1:{port}', [0, 1])
  process = place._process
  kept[0].close()
  assert process.stdin is not None
  process.stdin.close()  # as a kill does
  time.sleep(0.5)
  assert process.poll() is None
  kept[1].close()
  assert process.wait(10) == 1
