"""A checkpoint as a Hugging Face folder, for other tools to serve.

In: a `loop.System` with `checkpoint` and `output`. Out: the folder; adapters
are merged into the weights that they were trained on. What is *not* here: the
format (`weights.huggingface_export`).
"""

from typing import TYPE_CHECKING

from restem_jax.em.policy import Policies
from restem_jax.weights import huggingface_export

if TYPE_CHECKING:
  from restem_jax.em.loop import System


def run(system: 'System') -> None:
  """The run mode: writes the folder, tensors in the compute dtype.

  So they are those that were sampled from and evaluated.

  Raises:
    ValueError: checkpoint or output is not given, or as `Policies.restore` and
      `huggingface_export.write`.
  """
  checkpoint, output = system.checkpoint, system.output
  if checkpoint is None or output is None:
    name = 'CHECKPOINT' if checkpoint is None else 'OUTPUT'
    example = 'runs/math/iteration_01/checkpoints'
    if checkpoint is not None:
      example = 'exported'
    raise ValueError(
      f'--run_mode=export needs {name}: write --gin.{name}="\'{example}\'"'
    )
  policies = Policies(system.weights, system.dtype)
  huggingface_export.write(
    output,
    lambda: policies.restore(checkpoint),
    policies.reader,
    dtype=policies.model.dtype,
  )
  print(f'{checkpoint} is a Hugging Face folder now: {output}')
