"""The reward-weighted negative log-likelihood (arXiv 2312.06585 eq. 3).

In: parameters and a packed batch. Out: sum of w * -log p over target tokens,
and the sum of w. What is *not* here: gradients, normalisation across
microbatches (`step`), how w comes about (`batches.token_weights`).
"""

from collections.abc import Mapping
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from restem_jax.models.transformer import Model, Params


def weighted_nll(
  model: Model,
  params: Params,
  batch: Mapping[str, Array],
  *,
  remat: str = 'none',
  chunk_size: int = 256,
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """(sum of w * -log p(token | before), sum of w), both f32.

  The vocabulary-wide logits are computed for `chunk_size` tokens at a time
  and recomputed in the backward pass, so that `[B, T, V]` never exists.

  Args:
    model: its dtype is the compute dtype; log-softmax and sums are f32.
    params: parameter tree.
    batch: as `batches.Feed` makes it, `[B, T]` each.
    remat: what the backward pass keeps of a layer: none, dots or full.
    chunk_size: tokens per chunk of the head.
  """
  hidden = model.hidden(
    params,
    batch['tokens'],
    batch['positions'],
    batch['segment_ids'],
    batch['prefix_ids'],
    remat=remat,
  )
  # Token t + 1 is predicted from hidden state t. The first token of a segment
  # is a prompt token, whose weight is 0, so no prediction crosses a border.
  hidden = hidden[:, :-1].reshape(-1, hidden.shape[-1])
  targets = batch['tokens'][:, 1:].reshape(-1)
  weights = batch['weights'][:, 1:].reshape(-1).astype(jnp.float32)
  # Packed rows are mostly prompts: targets go first, so that they fill few
  # chunks and the others, without any target, cost nothing.
  order = jnp.argsort(weights == 0)
  hidden, targets, weights = hidden[order], targets[order], weights[order]
  pad = -targets.shape[0] % chunk_size
  chunks = jax.tree.map(
    lambda x: jnp.pad(x, ((0, pad),) + ((0, 0),) * (x.ndim - 1)).reshape(
      -1, chunk_size, *x.shape[1:]
    ),
    (hidden, targets, weights),
  )

  def chunk_sum(hidden, targets, weights):
    logits = model.logits(params, hidden)  # [chunk, V] f32
    chosen = jnp.take_along_axis(logits, targets[:, None], -1)[:, 0]
    nll = jax.nn.logsumexp(logits, -1) - chosen
    return jnp.where(weights > 0, weights * nll, 0.0).sum()

  # Around the condition, not inside it: what a branch keeps for the backward
  # pass is stacked by the scan, and that would be the table once per chunk.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add(total, chunk):
    empty = lambda *_: jnp.float32(0)
    used = (chunk[2] > 0).any()
    return total + jax.lax.cond(used, chunk_sum, empty, *chunk), None

  total, _ = jax.lax.scan(add, jnp.float32(0), chunks)
  return total, weights.sum()
