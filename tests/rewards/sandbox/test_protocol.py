"""Records that host and fork server exchange."""

import struct

import pytest

from restem_jax.rewards.sandbox import protocol


def test_a_request_keeps_its_numbers():
  words = (protocol.CALLS, 0.25, 5, 1 << 40, 1 << 62)
  assert protocol.REQUEST.unpack(protocol.REQUEST.pack(*words)) == words


def test_a_reply_keeps_its_numbers():
  words = (protocol.TIMEOUT, True, -9, 0.003)
  assert protocol.REPLY.unpack(protocol.REPLY.pack(*words)) == words


def test_no_error_has_the_size_of_a_reply():
  assert len(protocol.NOT_STARTED.encode()) > protocol.REPLY.size


def test_what_is_too_large_is_refused_not_cut():
  with pytest.raises(struct.error):
    protocol.REQUEST.pack(protocol.STDIO, 1.0, 1, 1 << 64, 0)
