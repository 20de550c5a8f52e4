"""How the next token is drawn: a value object and pure functions.

In: f32 logits `[B, V]` and one key per row. Out: token ids and their
log-probabilities. Temperature, top-k and top-p are traced scalars, so that no
change of them compiles anything. What is *not* here: the decode loop, stops.

The RNG contract: the key of a draw is f(seed, iteration, problem id, sample
index, position) and nothing else, so samples do not depend on batch size,
slots, refill order, hosts or restarts.
"""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

# Up to this k, top-k looks at the blocks with the largest values only, beyond it
# at the whole row: a draw from [64, 49152] takes 10 ms and 84 on busy Zen 3 cores.
_SMALL_K, _BLOCK = 64, 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
  """A sampling policy. Temperature 0 is greedy decoding.

  Filters apply in this order: temperature, top-k, top-p (nucleus,
  arXiv 1904.09751), each renormalising. The paper's E-step: T 0.7, top-k 40.
  """

  temperature: float = 0.7
  top_k: int = 0  # 0 keeps all
  top_p: float = 1.0  # 1 keeps all

  def __post_init__(self):
    if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
      raise ValueError(
        f'{self}: write temperature >= 0 (0 is greedy), top_k >= 0 (0 keeps '
        'all) and 0 < top_p <= 1'
      )

  def scalars(self) -> tuple[np.float32, np.int32, np.float32]:
    """(temperature f32, top_k int32, top_p f32), to be traced."""
    return (
      np.float32(self.temperature),
      np.int32(self.top_k),
      np.float32(self.top_p),
    )


GREEDY = Policy(temperature=0.0)


def problem_words(problem_id: str) -> tuple[int, int]:
  """Two 32-bit words of SHA-256 of a problem id: its part of the key."""
  digest = hashlib.sha256(problem_id.encode()).digest()
  return (
    int.from_bytes(digest[:4], 'little'),
    int.from_bytes(digest[4:8], 'little'),
  )


def rollout_keys(
  seed: int, iteration: int, words: Int[Array, 'B 2'], index: Int[Array, ' B']
) -> Array:
  """Keys `[B]` of rollouts: f(seed, iteration, problem id, sample index)."""
  base = jax.random.fold_in(jax.random.key(seed), iteration)

  def one(words, index):
    key = jax.random.fold_in(jax.random.fold_in(base, words[0]), words[1])
    return jax.random.fold_in(key, index)

  return jax.vmap(one)(words, index)


def _blocks(x: Float[Array, 'B V'], size: int, fill: float) -> Array:
  """`[B, V / size, size]`, the last block filled up."""
  b, v = x.shape
  x = jnp.pad(x, ((0, 0), (0, -v % size)), constant_values=fill)
  return x.reshape(b, -1, size)


def _kth_largest(x: Float[Array, 'B V'], k: Int[Array, '']) -> Array:
  """The k-th largest value of each row `[B]`, k traced, without a sort."""
  # Order-preserving map of f32 to uint32, then its bits from the highest: the
  # largest t with at least k values >= t is the k-th largest value.
  bits = jax.lax.bitcast_convert_type(x, jnp.int32)
  bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
  bits = jax.lax.bitcast_convert_type(bits, jnp.uint32)
  bits = bits ^ jnp.uint32(1 << 31)

  def body(i, t):
    trial = t | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
    enough = (bits >= trial[:, None]).sum(-1) >= k
    return jnp.where(enough, trial, t)

  t = jax.lax.fori_loop(0, 32, body, jnp.zeros(x.shape[0], jnp.uint32))
  return jnp.where(bits >= t[:, None], x, jnp.inf).min(-1)


def _nucleus(probs: Float[Array, 'B V'], top_p: Float[Array, '']) -> Array:
  """What the fewest largest probabilities that sum to >= top_p reach `[B]`.

  A bisection on the threshold: the largest t such that what is >= t still
  sums to top_p of the row. Equal probabilities are kept or dropped together.
  """
  want = top_p * probs.sum(-1)

  def body(_, low_high):
    low, high = low_high
    middle = (low + high) / 2
    mass = jnp.where(probs >= middle[:, None], probs, 0).sum(-1)
    return (
      jnp.where(mass >= want, middle, low),
      jnp.where(mass >= want, high, middle),
    )

  zero = jnp.zeros_like(want)
  # 30 halvings of [0, max] separate values closer than f32 can tell.
  return jax.lax.fori_loop(0, 30, body, (zero, probs.max(-1) * 1.0000001))[0]


def _invert_cdf(probs: Float[Array, 'B V'], u: Float[Array, ' B']) -> Array:
  """The index where the running sum of a row first exceeds u * total.

  In two levels of blocks, since a running sum over the whole vocabulary costs
  18 ms for [64, 49152] on two cores and rounds worse: sums stay short.
  """
  block = 256
  probs = _blocks(probs, block, 0)

  def pick(mass, u):
    """Index of the block that holds u, and what is left of u inside it."""
    running = jnp.cumsum(mass, -1)
    # The last block with any mass takes what rounding leaves over.
    last = mass.shape[-1] - 1 - jnp.argmax(mass[:, ::-1] > 0, -1)
    at = jnp.minimum((running <= u[:, None]).sum(-1), last)
    before = jnp.take_along_axis(running - mass, at[:, None], -1)[:, 0]
    return at, u - before

  sums = probs.sum(-1)
  at, rest = pick(sums, u * sums.sum(-1))
  inside = jnp.take_along_axis(probs, at[:, None, None], 1)[:, 0]
  return (at * block + pick(inside, rest)[0]).astype(jnp.int32)


def draw(
  logits: Float[Array, 'B V'],
  keys: Array,
  temperature: Float[Array, ''],
  top_k: Int[Array, ''],
  top_p: Float[Array, ''],
) -> tuple[Int[Array, ' B'], Float[Array, ' B']]:
  """Draws one token per row.

  Args:
    logits: f32.
    keys: `[B]` keys, one uniform number is drawn from each.
    temperature: 0 takes the largest logit (the first among equals).
    top_k: 0 keeps all; of ties with the k-th largest more may be kept.
    top_p: 1 keeps all.

  Returns:
    Token ids, and their log-probabilities (nats) under the untempered,
    unfiltered policy.
  """
  blocks = _blocks(logits, _BLOCK, -jnp.inf)
  maxima = blocks.max(-1)
  top = maxima.max(-1)
  zeros = jnp.zeros_like(top)

  def pick(x, low):
    """Index of a draw from what of `x` is at least `low`."""
    probs = jnp.exp((x - top[:, None]) / temperature)
    probs = jnp.where(x >= low[:, None], probs, 0)
    low = jax.lax.cond(top_p < 1, lambda: _nucleus(probs, top_p), lambda: zeros)
    probs = jnp.where(probs >= low[:, None], probs, 0)
    return _invert_cdf(probs, jax.vmap(jax.random.uniform)(keys))

  def from_all(_):
    # The condition chooses a threshold, not an array over the vocabulary: that
    # would be copied out of it.
    low = jax.lax.cond(
      top_k > 0, lambda: _kth_largest(logits, top_k), lambda: zeros - jnp.inf
    )
    return pick(logits, low)

  def from_few(_):
    # Whatever is among a row's n largest lies in the n blocks that have the
    # largest maxima, or equals what does.
    at = jnp.sort(jax.lax.top_k(maxima, _SMALL_K)[1], -1)
    few = jnp.take_along_axis(blocks, at[..., None], 1)
    few = few.reshape(len(at), -1)
    low = jax.lax.top_k(few, _SMALL_K)[0][:, jnp.clip(top_k, 1, _SMALL_K) - 1]
    index = pick(few, low)[:, None]
    block = jnp.take_along_axis(at, index // _BLOCK, -1)
    return (block * _BLOCK + index % _BLOCK)[:, 0].astype(jnp.int32)

  def sampled(_):
    if maxima.shape[-1] <= 2 * _SMALL_K:
      return from_all(None)
    is_few = (top_k > 0) & (top_k <= _SMALL_K)
    return jax.lax.cond(is_few, from_few, from_all, None)

  def greedy(_):
    # The first of the largest: an argmax, which XLA takes 7 ms for on a CPU.
    index = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    equal = jnp.where(logits == top[:, None], index, index[-1])
    return equal.min(-1)

  tokens = jax.lax.cond(temperature > 0, sampled, greedy, None)
  chosen = jnp.take_along_axis(logits, tokens[:, None], -1)[:, 0]
  total = _blocks(jnp.exp(logits - top[:, None]), 256, 0).sum(-1).sum(-1)
  return tokens, chosen - top - jnp.log(total)
