"""When a rollout ends: EOS ids, and stop strings across token boundaries.

In: the bytes of every token and the stop strings. Out: a table that a device
walks one token at a time. What is *not* here: the length limit (the engine's).

Stop strings are matched in *bytes* by an Aho-Corasick automaton
(https://doi.org/10.1145/360825.360855): its state after a token depends only
on its state before and the token's bytes, so one table `[states, V]` finds a
stop string wherever the token boundaries fall, with one lookup per step and
no host round trip.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stops:
  """EOS ids and the automaton of the stop strings.

  Attributes:
    is_eos: `[V]` bool.
    table: `[num_states, V]` int16 (int32 if there are many states): the state
      after a token. State 0 is the start; the last state means "stopped" and
      is never left.
    strings: the stop strings, to trim text with.
  """

  is_eos: np.ndarray
  table: np.ndarray
  strings: tuple[str, ...] = ()

  @property
  def accept(self) -> int:
    """The state that means "a stop string is complete"."""
    return self.table.shape[0] - 1

  def trim(self, text: str) -> str:
    """`text` up to the first occurrence of any stop string."""
    cuts = [text.find(s) for s in self.strings]
    return text[: min((c for c in cuts if c >= 0), default=len(text))]


def _automaton(patterns: Sequence[bytes]) -> np.ndarray:
  """Byte transitions `[num_states, 256]`; the last state accepts."""
  goto: list[dict[int, int]] = [{}]
  accepting: set[int] = set()
  for pattern in patterns:
    state = 0
    for byte in pattern:
      if byte not in goto[state]:
        goto.append({})
        goto[state][byte] = len(goto) - 1
      state = goto[state][byte]
    accepting.add(state)
  n = len(goto)
  step = np.zeros((n + 1, 256), np.int64)
  fail, queue = [0] * n, list(goto[0].values())
  for byte, child in goto[0].items():
    step[0, byte] = child
  for state in queue:  # breadth first: a state's failure state is done
    if fail[state] in accepting:
      accepting.add(state)
    step[state] = step[fail[state]]
    for byte, child in goto[state].items():
      fail[child] = int(step[fail[state], byte])
      step[state, byte] = child
      queue.append(child)
  step[np.isin(step, sorted(accepting))] = n
  step[n] = n
  return step


def build(
  token_bytes: Sequence[bytes],
  eos_ids: Sequence[int] = (),
  strings: Sequence[str] = (),
  vocab_size: int | None = None,
) -> Stops:
  """Builds the table for a vocabulary.

  Args:
    token_bytes: the bytes of every token id `[V]`; b'' for special tokens,
      which leave the state as it is.
    eos_ids: ids that end a rollout.
    strings: stop strings, none empty.
    vocab_size: V of the model, when its table has more rows than the
      tokenizer has tokens (padding): those have no bytes.

  Raises:
    ValueError: an empty stop string, or an EOS id outside the vocabulary.
  """
  if any(not s for s in strings):
    raise ValueError('a stop string is empty; remove it or write its text')
  vocab = len(token_bytes) if vocab_size is None else vocab_size
  if vocab < len(token_bytes):
    raise ValueError(
      f'the tokenizer has {len(token_bytes)} tokens, the model only {vocab}; '
      'they do not belong together'
    )
  for i in eos_ids:
    if not 0 <= i < vocab:
      raise ValueError(f'EOS id {i} is outside the vocabulary of {vocab}')
  is_eos = np.zeros(vocab, bool)
  is_eos[list(eos_ids)] = True
  step = _automaton([s.encode() for s in strings])
  longest = max(map(len, token_bytes), default=0)
  padded = np.zeros((vocab, longest), np.int64)
  for i, data in enumerate(token_bytes):
    padded[i, : len(data)] = list(data)
  lengths = np.zeros(vocab, np.int64)
  lengths[: len(token_bytes)] = [len(data) for data in token_bytes]
  states = np.repeat(np.arange(step.shape[0])[:, None], vocab, 1)
  for at in range(longest):
    live = np.flatnonzero(lengths > at)
    states[:, live] = step[states[:, live], padded[live, at]]
  kind = np.int16 if step.shape[0] < 2**15 else np.int32
  return Stops(is_eos=is_eos, table=states.astype(kind), strings=tuple(strings))
