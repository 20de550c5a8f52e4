"""Stop strings are found wherever token boundaries fall."""

import hypothesis
from hypothesis import strategies as st
import pytest

from restem_jax.sampling import stops as stops_lib

TOKENS = [
  b'a',
  b'b',
  b'c',
  b'ab',
  b'ba',
  b'abc',
  b'ccab',
  b'',
  b'\xc3',
  b'\xa9',
]


def walk(stops, ids):
  """Number of tokens until the automaton stops; None if it never does."""
  state = 0
  for n, i in enumerate(ids, 1):
    state = int(stops.table[state, i])
    if state == stops.accept:
      return n
  return None


def search(strings, ids):
  text = b''
  for n, i in enumerate(ids, 1):
    text += TOKENS[i]
    if any(s.encode() in text for s in strings):
      return n
  return None


@hypothesis.given(
  st.lists(st.text('abcé', min_size=1, max_size=5), max_size=4),
  st.lists(st.integers(0, len(TOKENS) - 1), max_size=30),
)
def test_the_table_equals_a_search_of_the_bytes(strings, ids):
  stops = stops_lib.build(TOKENS, (), strings)
  assert walk(stops, ids) == search(strings, ids)


def test_a_stop_inside_one_token_stops():
  stops = stops_lib.build(TOKENS, (), ['ca'])
  assert walk(stops, [6]) == 1  # 'ccab'


def test_text_is_trimmed_at_the_first_stop():
  stops = stops_lib.build(TOKENS, (), ['b', 'ca'])
  assert stops.trim('aaccab') == 'aac'
  assert stops.trim('aac') == 'aac'


def test_eos_ids_are_marked():
  stops = stops_lib.build(TOKENS, (7,), [])
  assert stops.is_eos.nonzero()[0].tolist() == [7]
  assert walk(stops, range(len(TOKENS))) is None


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [({'strings': ['']}, 'is empty'), ({'eos_ids': [10]}, 'EOS id 10')],
)
def test_bad_stops_are_named(kwargs, message):
  with pytest.raises(ValueError, match=message):
    stops_lib.build(TOKENS, **kwargs)
