"""What the backward pass of a layer keeps, and what it computes again.

In: a setting, such as 'full' or 'qkv,attention'. Out: a policy for
`jax.checkpoint`, and the names that layers give to what they compute. What is
*not* here: the layers (`attention`, `layers`, `transformer`).
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

# Per token and layer, in numbers of the compute dtype:
QKV = 'qkv'  # queries, keys, values behind the rotation: (H + 2 K) head_dim
ATTENTION = 'attention'  # what heads give, and their log-sums: H (head_dim + 2)
RESIDUAL = 'residual'  # activations between attention and MLP: D
MLP = 'mlp'  # gate and up: 2 F
NAMES = (QKV, ATTENTION, RESIDUAL, MLP)


def _keep(*names: str) -> Callable[..., bool]:
  """A policy that keeps what has these names.

  JAX's cudnn gives its kernel's results no name, and the layer can't name the
  log-sums among them. Without these the backward pass runs it once more.
  """
  named_so = jax.checkpoint_policies.save_only_these_names(*names)

  def keep(primitive: Any, *args: Any, **params: Any) -> bool:
    if primitive.name.startswith('dot_product_attention_fwd'):
      return ATTENTION in names
    return named_so(primitive, *args, **params)

  return keep


_POLICIES = {
  'dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _keep(ATTENTION)
  ),
  'full': jax.checkpoint_policies.nothing_saveable,
}

named = checkpoint_name


def check(remat: str) -> None:
  """Raises ValueError: not a setting that `checkpointed` takes."""
  if remat in ('none', *_POLICIES):
    return
  names = [name.strip() for name in remat.split(',')]
  if any(name not in NAMES for name in names):
    raise ValueError(
      f'remat={remat!r}; write none (keep everything), full (keep nothing), '
      f'dots (keep what weights give), or what to keep, some of '
      f"{', '.join(NAMES)}: 'qkv,attention'"
    )


def checkpointed(fn: Callable[..., Any], remat: str) -> Callable[..., Any]:
  """`fn` with the backward pass of `remat`."""
  check(remat)
  if remat == 'none':
    return fn
  policy = _POLICIES.get(remat)
  if policy is None:
    names = (name.strip() for name in remat.split(','))
    policy = _keep(*names)
  return jax.checkpoint(fn, policy=policy)
