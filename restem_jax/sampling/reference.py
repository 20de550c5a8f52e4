"""A slow oracle: one rollout at a time, no cache, the whole forward per token.

In and out: as `engine`, for one request. The engine must equal it. Stops are
found here by searching the bytes so far, not by the automaton. What is *not*
here: speed.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from restem_jax.models.transformer import Model, Params
from restem_jax.sampling import policies
from restem_jax.sampling.engine import Rollout

# Traced once per architecture and length, whichever rollout asks.
_forward = jax.jit(Model.forward, static_argnums=0)
_draw = jax.jit(policies.draw)


def sample(
  model: Model,
  params: Params,
  *,
  problem_id: str,
  prompt_ids: Sequence[int],
  index: int,
  policy: policies.Policy,
  max_new_tokens: int,
  seed: int,
  iteration: int,
  token_bytes: Sequence[bytes],
  eos_ids: Sequence[int] = (),
  strings: Sequence[str] = (),
) -> Rollout:
  """One rollout of one problem, token by token."""
  # Padded to few lengths, each of which compiles the forward pass once.
  total = -(-(len(prompt_ids) + max_new_tokens) // 32) * 32
  words = np.array([policies.problem_words(problem_id)], np.uint32)
  key = policies.rollout_keys(
    seed, iteration, jnp.asarray(words), jnp.array([index])
  )[0]
  ids, logprobs, text, finish = list(prompt_ids), [], b'', 'length'
  for position in range(max_new_tokens):
    tokens = np.zeros((1, total), np.int32)
    tokens[0, : len(ids)] = ids
    logits = _forward(model, params, tokens)[:, len(ids) - 1]
    step_key = jax.random.fold_in(key, position)[None]
    token, logprob = _draw(logits, step_key, *policy.scalars())
    ids.append(int(token[0]))
    logprobs.append(float(logprob[0]))
    text += token_bytes[ids[-1]]
    if ids[-1] in eos_ids:
      finish = 'eos'
      break
    if any(s.encode() in text for s in strings):
      finish = 'stop'
      break
  return Rollout(
    problem_id=problem_id,
    index=index,
    token_ids=tuple(ids[len(prompt_ids) :]),
    logprobs=tuple(logprobs),
    finish=finish,
  )
