"""Schedules and masks for optax; optimisers themselves are optax's own.

In: the number of steps of a run. Out: learning-rate schedules. gin binds
`optax.adamw` or `optax.adafactor` directly. What is *not* here: optimisers.
"""

from typing import Any

import jax
import optax


def warmup_cosine(
  total_steps: int,
  peak: float = 2e-5,
  warmup_fraction: float = 0.1,
  final_fraction: float = 0.1,
) -> optax.Schedule:
  """Linear warm-up to `peak`, then a cosine to `final_fraction * peak`.

  The first step has `peak / (warm-up steps + 1)`, not 0: with few steps an
  idle one counts.
  """
  warmup = max(1, round(total_steps * warmup_fraction))
  return optax.warmup_cosine_decay_schedule(
    init_value=peak / (warmup + 1),
    peak_value=peak,
    warmup_steps=warmup,
    decay_steps=max(total_steps, warmup + 1),
    end_value=peak * final_fraction,
  )


def constant(total_steps: int, value: float = 2e-5) -> optax.Schedule:
  """The same rate at every step."""
  del total_steps
  return optax.constant_schedule(value)


def matrices(params: Any) -> Any:
  """A mask for weight decay: True but for norms and biases.

  By name, not by rank: stacked layers make a norm's scale a matrix.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not path[-1].key.endswith(('norm', 'bias')), params
  )
