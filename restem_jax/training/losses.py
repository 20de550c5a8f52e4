"""The reward-weighted negative log-likelihood (arXiv 2312.06585 eq. 3).

In: parameters and a packed batch. Out: sum of w * -log p over target tokens,
and the sum of w. What is *not* here: normalisation across microbatches
(`step`), how w comes about (`batches.token_weights`).
"""

from collections.abc import Mapping
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from restem_jax import partitioning
from restem_jax.models.transformer import Model, Params


def default_chunk(platform: str) -> int:
  """Tokens of a chunk on 'tpu', 'gpu' or 'cpu'.

  GPUs read and write the whole head and its gradient for every chunk.
  """
  return 2048 if platform == 'gpu' else 256


def weighted_nll(
  model: Model,
  params: Params,
  batch: Mapping[str, Array],
  *,
  remat: str = 'none',
  implementation: str = 'xla',
  scan_layers: bool = True,
  chunk_size: int = 256,
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """(sum of w * -log p(token | before), sum of w), both f32.

  The vocabulary-wide logits are computed for `chunk_size` tokens at a time, and
  their gradients at once, so that `[B, T, V]` never exists. It has gradients
  in the parameters, none in the batch. On a mesh a chunk has `chunk_size` tokens
  for each part of the batch, and devices of the `fsdp` axis split its vocabulary
  instead of its rows: neither the head nor its gradient is ever whole on a
  device.

  Args:
    model: its dtype is the compute dtype; log-softmax and sums are f32.
    params: parameter tree.
    batch: as `batches.Feed` makes it, `[B, T]` each.
    remat: what the backward pass keeps of a layer (`models.remat`).
    implementation: of attention, as `kernels.choose` gives it.
    scan_layers: as in `Model.hidden`.
    chunk_size: tokens whose logits a device has room for at a time.
  """
  hidden = model.hidden(
    params,
    batch['tokens'],
    batch['positions'],
    batch['seen_until'],
    remat=remat,
    implementation=implementation,
    scan_layers=scan_layers,
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
  tied = model.config.tied_embeddings
  head = params['embed']['table'] if tied else params['head']
  return _sum_of_chunks(model, head, *chunks), weight


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_of_chunks(model: Model, head: Array, *chunks: Array) -> Array:
  """Sum of weight * nll; chunks of hidden states, targets and weights."""
  # Nothing but tests asks for it without gradients.
  return _with_gradients(model, head, *chunks)[0]


def _with_gradients(model: Model, head: Array, *chunks: Array):
  """The sum, and what the backward pass multiplies: its gradients.

  Computed here, while a chunk's logits are there, they take three products
  with the head; a backward pass with its own logits takes four.
  """
  local = _by_vocabulary(model, head)

  def gradients(*chunk):
    fn = functools.partial(_chunk_sum, model)
    value, backward = jax.vjp(fn, local, *chunk)
    d_head, d_hidden = backward(jnp.float32(1))[:2]
    # Each where its value lies: else whole logits are sent around.
    d_head = partitioning.constrain(d_head, _head_axes(model))
    axes = ('batch', 'length', 'embed')
    return value, d_head, partitioning.constrain(d_hidden, axes)

  def empty(hidden, *_):
    return jnp.float32(0), jnp.zeros_like(local), jnp.zeros_like(hidden)

  def add(sums, chunk):
    used = (chunk[2] > 0).any()
    value, d_head, d_hidden = jax.lax.cond(used, gradients, empty, *chunk)
    # Of all chunks, so in f32.
    return (sums[0] + value, sums[1] + d_head.astype(jnp.float32)), d_hidden

  zeros = jnp.zeros_like(local, jnp.float32)
  zeros = partitioning.constrain(zeros, _head_axes(model))
  (total, d_head), d_hidden = jax.lax.scan(add, (jnp.float32(0), zeros), chunks)
  return total, (d_head.astype(head.dtype), d_hidden)


def _scaled(_, kept, grad):
  d_head, d_hidden = (x * grad.astype(x.dtype) for x in kept)
  return d_head, d_hidden, None, None


_sum_of_chunks.defvjp(_with_gradients, _scaled)


def _chunk_sum(model: Model, head, hidden, targets, weights) -> Array:
  hidden = partitioning.constrain(hidden, ('loss_batch', 'length', 'embed'))
  tied = model.config.tied_embeddings
  own = {'embed': {'table': head}} if tied else {'head': head}
  params = model.abstract_params() | own  # the others are not looked at
  logits = model.logits(params, hidden)  # [B, width, V] f32
  logits = partitioning.constrain(
    logits, ('loss_batch', 'length', 'loss_vocab')
  )
  chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
  nll = jax.nn.logsumexp(logits, -1) - chosen
  return jnp.where(weights > 0, weights * nll, 0.0).sum()


def _columns(rows: tuple[Array, ...], width: int) -> tuple[Array, ...]:
  """Cuts `[B, T, ...]` into `[chunks, B, width, ...]`, padded with zeros."""

  def cut(x):
    b, t, *rest = x.shape
    x = jnp.pad(x, ((0, 0), (0, -t % width)) + ((0, 0),) * len(rest))
    return jnp.moveaxis(x.reshape(b, -1, width, *rest), 1, 0)

  return tuple(map(cut, rows))


def _by_vocabulary(model: Model, head: Array) -> Array:
  """The head in the compute dtype, split over the vocabulary only.

  Here and not in the loop over chunks: it would move once for each of them.
  """
  return partitioning.constrain(head.astype(model.dtype), _head_axes(model))


def _head_axes(model: Model) -> tuple[str, str]:
  tied = model.config.tied_embeddings
  return ('loss_vocab', 'embed') if tied else ('embed', 'loss_vocab')
