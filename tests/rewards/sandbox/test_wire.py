from collections import deque, OrderedDict
from decimal import Decimal
import enum
from fractions import Fraction
import json
import socket
import threading

import pytest

from restem_jax.rewards.sandbox import wire

VALUES = [
  None,
  True,
  0,
  -(10**5000),
  1 << 53,
  1.5,
  float('inf'),
  'é\ud800\x00',
  b'\xff',
  bytearray(b'a'),
  1 + 2j,
  range(1, 10, 3),
  [1, [2, (3,)]],
  (),
  {1, 2},
  frozenset([(1, 2)]),
  {(1, 2): [3], 'a': None},
  deque([1, 2]),
  Fraction(1, 3),
  Decimal('1.10'),
  int,
  ValueError,
]


def refuse(*args):
  raise LookupError(args)


def types(tag, key):
  return {'int': int, 'ValueError': ValueError}[key]


@pytest.mark.parametrize('value', VALUES, ids=lambda v: type(v).__name__)
def test_round_trip(value):
  data = json.loads(json.dumps(wire.pack(value, refuse)))
  back = wire.unpack(data, types)
  assert type(back) is type(value) and back == value


class HostileInt(int):
  def __eq__(self, other):
    return True

  def __index__(self):
    return 3

  __hash__ = None


class HostileDict(dict):
  def items(self):
    return [('right', 1)]


class HostileList(list):
  def __iter__(self):
    return iter([1, 2, 3])


class Colour(enum.IntEnum):
  RED = 7


@pytest.mark.parametrize(
  ('value', 'plain'),
  [
    (HostileInt(5), 5),
    (HostileDict(a=1), {'a': 1}),
    (HostileList([9]), [9]),
    (Colour.RED, 7),
    (OrderedDict(a=1), {'a': 1}),
    ({'b': 1}.keys(), {'b'}),
  ],
)
def test_subclasses_arrive_plain(value, plain):
  back = wire.unpack(wire.pack(value, refuse), refuse)
  assert type(back) is type(plain) and back == plain


def test_numpy():
  np = pytest.importorskip('numpy')
  value = [np.int64(3), np.arange(2), np.float32(0.5)]
  assert wire.pack(value, refuse) == [3, [0, 1], 0.5]


def test_the_rest_is_referred():
  class Thing:
    pass

  thing = Thing()
  assert wire.pack([thing], lambda v: {'h': v is thing}) == [{'h': True}]


def test_too_long_is_refused_before_it_is_encoded():
  with pytest.raises(OverflowError):
    wire.pack('x' * (wire.MAX_FRAME + 1), refuse)


# --- Peers ----------------------------------------------------------------


def pair(answer):
  """An asking peer, and a thread that answers until the socket closes."""
  ours, theirs = socket.socketpair()
  asking = wire.Peer(ours.fileno(), refuse, refuse, refuse)
  serving = wire.Peer(theirs.fileno(), answer, refuse, refuse)

  def serve():
    try:
      serving.serve_forever()
    except wire.Lost:
      theirs.close()

  thread = threading.Thread(target=serve)
  thread.start()
  return ours, asking, thread


def test_ask():
  ours, peer, thread = pair(lambda op, args: [op, *args])
  assert peer.ask('add', 1, (2,)) == ['add', 1, (2,)]
  ours.close()
  thread.join()


def test_exceptions_cross_as_builtins():
  class Mine(ZeroDivisionError):
    def __str__(self):
      raise SystemExit(0)

  def answer(op, args):
    raise Mine if op == 'mine' else b'\xff'.decode()

  ours, peer, thread = pair(answer)
  with pytest.raises(ZeroDivisionError) as caught:
    peer.ask('mine')
  assert caught.value.__dict__['remote']
  with pytest.raises(ValueError):  # UnicodeDecodeError's base
    peer.ask('decode')
  ours.close()
  thread.join()


FORGERIES = [
  b'{"r": "early", "v": 3}',
  b'[' * 200_000,
  b'[]',
  b'"x"',
  b'{"q": 1}',
  b'\xff',
  b'{"r": "%s", "v": {"s": [[]]}}',
  b'{"r": "%s", "e": 5}',
]


@pytest.mark.parametrize('forged', FORGERIES, ids=range(len(FORGERIES)))
def test_forged_answers_are_lost(forged):
  """Also with the right nonce, an unhashable set or a broken exception."""
  ours, theirs = socket.socketpair()
  peer = wire.Peer(ours.fileno(), refuse, refuse, refuse)

  def answer():
    question = json.loads(wire.read_frame(theirs.fileno()))
    wire.write_frame(
      theirs.fileno(), forged.replace(b'%s', question['q'].encode())
    )

  with ours, theirs:
    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(wire.Lost):
      peer.ask('f')
    thread.join()


def test_a_long_frame_is_not_read():
  ours, theirs = socket.socketpair()
  with ours, theirs:
    theirs.sendall((wire.MAX_FRAME + 1).to_bytes(4, 'little'))
    with pytest.raises(wire.Lost, match='a frame of'):
      wire.read_frame(ours.fileno())
    theirs.close()
    with pytest.raises(wire.Lost, match='end of stream'):
      wire.read_frame(ours.fileno())
