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

_POLICIES = {
  'dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(ATTENTION),
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
    policy = jax.checkpoint_policies.save_only_these_names(*names)
  return jax.checkpoint(fn, policy=policy)
