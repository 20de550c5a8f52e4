"""Tests of restem_jax.rewards.forkserver: frames. `test_pool` runs it."""

import socket
import struct
import time

from hypothesis import given, settings, strategies as st
import pytest

from restem_jax.rewards import forkserver

_json = st.recursive(
  st.none() | st.booleans() | st.integers() | st.text(),
  lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
  max_leaves=10,
)


@settings(deadline=None)  # the machine may be busy
@given(_json)
def test_frames_arrive_as_sent(value):
  a, b = socket.socketpair()
  with a, b:
    forkserver.write_frame(a, value)
    forkserver.write_frame(a, 'next')
    assert forkserver.read_frame(b) == value
    assert forkserver.read_frame(b) == 'next'


@pytest.mark.parametrize('value', [{1, 2}, 'x' * (1 << 20)])
def test_what_cannot_be_sent(value):
  a, b = socket.socketpair()
  with a, b, pytest.raises(forkserver.FrameError):
    forkserver.write_frame(a, value)


@pytest.mark.parametrize(
  'data',
  [
    struct.pack('>I', 1 << 31),
    struct.pack('>I', 3) + b'{]}',
    struct.pack('>I', 2) + b'\xff\xff',
    struct.pack('>I', 50000) + b'[' * 50000,
  ],
)
def test_hostile_frames(data):
  a, b = socket.socketpair()
  with a, b:
    a.sendall(data)
    with pytest.raises(forkserver.FrameError):
      forkserver.read_frame(b)


def test_end_of_file():
  a, b = socket.socketpair()
  a.sendall(b'\0\0')
  a.close()
  with b, pytest.raises(EOFError):
    forkserver.read_frame(b)


def test_a_deadline_is_not_renewed_by_trickling():
  a, b = socket.socketpair()
  with a, b:
    a.sendall(struct.pack('>I', 100) + b'1')
    start = time.monotonic()
    with pytest.raises(TimeoutError):
      forkserver.read_frame(b, start + 0.2)
    assert time.monotonic() - start < 1.0
