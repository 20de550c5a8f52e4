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

from restem_jax import partitioning
from restem_jax.models.transformer import Model, Params


def weighted_nll(
  model: Model,
  params: Params,
  batch: Mapping[str, Array],
  *,
  remat: str = 'none',
  implementation: str = 'xla',
  chunk_size: int = 256,
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """(sum of w * -log p(token | before), sum of w), both f32.

  The vocabulary-wide logits are computed for `chunk_size` tokens at a time
  and recomputed in the backward pass, so that `[B, T, V]` never exists. On a
  mesh a chunk has `chunk_size` tokens for each part of the batch, and devices
  of the `fsdp` axis split its vocabulary instead of its rows: neither the head
  nor its gradient is ever whole on a device.

  Args:
    model: its dtype is the compute dtype; log-softmax and sums are f32.
    params: parameter tree.
    batch: as `batches.Feed` makes it, `[B, T]` each.
    remat: what the backward pass keeps of a layer (`models.remat`).
    implementation: of attention, as `kernels.choose` gives it.
    chunk_size: tokens whose logits a device has room for at a time.
  """
  hidden = model.hidden(
    params,
    batch['tokens'],
    batch['positions'],
    batch['seen_until'],
    remat=remat,
    implementation=implementation,
  )
  # Token t + 1 is predicted from hidden state t. The first token that an
  # example has for itself is of its prompt, whose weight is 0, so no prediction
  # crosses a border.
  rows = (
    hidden[:, :-1],
    batch['tokens'][:, 1:],
    batch['weights'][:, 1:].astype(jnp.float32),
  )
  weight = rows[2].sum()
  shards = partitioning.num_shards('batch')
  if shards == 1:  # one long row fills its chunks best
    rows = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), rows)
  # Packed rows are mostly prompts: targets go first, so that they fill few
  # chunks and the others, without any target, cost nothing. Within its row:
  # sorting the whole batch would send every token to every device.
  order = jnp.argsort(rows[2] == 0, axis=1)
  rows = jax.tree.map(
    lambda x: jnp.take_along_axis(
      x, order.reshape(order.shape + (1,) * (x.ndim - 2)), 1
    ),
    rows,
  )
  b, t = order.shape
  chunks = _columns(rows, min(t, max(1, chunk_size * shards // b)))
  params = _head_by_vocabulary(model, params)

  def chunk_sum(hidden, targets, weights):
    hidden = partitioning.constrain(hidden, ('loss_batch', 'length', 'embed'))
    logits = model.logits(params, hidden)  # [B, width, V] f32
    logits = partitioning.constrain(
      logits, ('loss_batch', 'length', 'loss_vocab')
    )
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
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
  return total, weight


def _columns(rows: tuple[Array, ...], width: int) -> tuple[Array, ...]:
  """Cuts `[B, T, ...]` into `[chunks, B, width, ...]`, padded with zeros."""

  def cut(x):
    b, t, *rest = x.shape
    x = jnp.pad(x, ((0, 0), (0, -t % width)) + ((0, 0),) * len(rest))
    return jnp.moveaxis(x.reshape(b, -1, width, *rest), 1, 0)

  return tuple(map(cut, rows))


def _head_by_vocabulary(model: Model, params: Params) -> Params:
  """The parameters with the head split over the vocabulary only.

  Here and not in the loop over chunks: it would move once for each of them.
  """
  if partitioning.num_shards('loss_vocab') == 1:
    return params
  if model.config.tied_embeddings:
    table = params['embed']['table'].astype(model.dtype)
    table = partitioning.constrain(table, ('loss_vocab', 'embed'))
    return params | {'embed': {'table': table}}
  head = params['head'].astype(model.dtype)
  return params | {
    'head': partitioning.constrain(head, ('embed', 'loss_vocab'))
  }
