"""Orbax checkpoints: latest to go on from, best to sample from.

In: a training state, where the data stands, a validation reward. Out: the
same, onto any mesh. What is *not* here: when to save (`training.trainer`).

A checkpoint holds `params` (f32), `opt_state` and `progress` (JSON); where
`params` are adapters, `adapter` (JSON) says of what. Orbax writes into a
temporary folder and renames it, so a killed save leaves no checkpoint that
looks whole. It does not check what it reads, though: a flipped bit would be
trained on. So `sums` (JSON) holds a checksum of every array, computed where the
array lies when it is saved, and again when it is restored, and one of each JSON
value, the reward among them. Nothing here unpickles.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import logging
import os
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

_log = logging.getLogger(__name__)

_REWARD = 'validation_reward'


def _best(rewards: Mapping[int, float | None]) -> int | None:
  """The step of the highest reward, the earliest of equals."""
  measured = {step: r for step, r in rewards.items() if r is not None}
  if not measured:
    return None
  return min(measured, key=lambda step: (-measured[step], step))


def _reward(metrics: Mapping[str, float] | None) -> float | None:
  return (metrics or {}).get(_REWARD)


class Damaged(ValueError):
  """A checkpoint is not what was saved; names it and what is wrong."""


@jax.jit
def _sums(arrays: list[jax.Array]) -> list[jax.Array]:
  """A uint32 per array, which any changed bit changes, and most swaps do.

  Whole numbers modulo 2^32 add up to the same in any order: on any mesh.
  """

  def one(x):
    bits = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}')
    index, stride = jnp.uint32(0), 1
    for dim in reversed(range(x.ndim)):
      along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim)
      index, stride = index + along * jnp.uint32(stride), stride * x.shape[dim]
    return (bits.astype(jnp.uint32) * (2 * index + 1)).sum(dtype=jnp.uint32)

  return [one(x) for x in arrays]


def _checksums(item: Any) -> dict[str, int | str]:
  """Checksums of a tree's arrays by their paths, or of a JSON value."""
  leaves = jax.tree_util.tree_leaves_with_path(item)
  if not all(isinstance(leaf, jax.Array) for _, leaf in leaves):
    text = json.dumps(item, sort_keys=True)
    return {'': hashlib.sha256(text.encode()).hexdigest()}
  sums = _sums([leaf for _, leaf in leaves])
  return {
    jax.tree_util.keystr(path): int(x)
    for (path, _), x in zip(leaves, sums, strict=True)
  }


def _check(step: epath.Path, **items: Any) -> None:
  """Compares what was restored of a step with what was saved."""
  file = step / 'sums' / 'metadata'
  if not file.exists():
    _log.warning('%s has no checksums: an earlier version saved it', step)
    return
  with _named(step):
    saved = json.loads(file.read_text())
    for item, value in items.items():
      for name, found in _checksums(value).items():
        if saved[item][name] != found:
          raise _damaged(step, f'{item}{name} is not what was saved')


@contextlib.contextmanager
def _named(step: epath.Path) -> Iterator[None]:
  """Says which step it was that can't be read."""
  try:
    yield
  except (Damaged, jax.errors.JaxRuntimeError):
    raise  # the latter: memory, or other hosts
  except Exception as e:  # of many kinds, Exception itself among them
    raise _damaged(step, str(e).partition('\n')[0]) from e


def _damaged(step: epath.Path, what: str) -> Damaged:
  return Damaged(
    f'{step} is damaged ({what}); delete that folder: the run goes on from '
    'another checkpoint or, if there is none, from where it began'
  )


class _LatestAndBest(checkpoint_managers.PreservationPolicy):
  """Which checkpoints stay. Orbax's own BestN takes the latest of equals."""

  def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
    del context
    best = _best({info.step: _reward(info.metrics) for info in checkpoints})
    latest = max((info.step for info in checkpoints), default=None)
    return [info.step in (best, latest) for info in checkpoints]


class Checkpoints:
  """The checkpoints of one M-step: keeps the latest and the best."""

  def __init__(
    self,
    directory: epath.PathLike,
    adapter: Mapping[str, Any] | None = None,
  ):
    """Opens `iteration_XX/checkpoints`; a step is a folder in it.

    Args:
      directory: made if it is not there.
      adapter: saved with each step: how to make a policy of params that are
        none by themselves, JSON values (`adapter_of`).
    """
    self.directory = _absolute(directory)
    self._adapter = adapter
    options = ocp.CheckpointManagerOptions(
      preservation_policy=_LatestAndBest(),
      best_fn=lambda metrics: metrics[_REWARD],  # so that they are saved
      create=True,
      cleanup_tmp_directories=True,
    )
    for step in _steps(self.directory):
      _reward_of(step)  # or it says which one can't be read
    self._manager = ocp.CheckpointManager(self.directory, options=options)

  def save(
    self,
    step: int,
    params: Any,
    opt_state: Any,
    progress: Mapping[str, Any],
    reward: float | None,
  ) -> None:
    """Starts an asynchronous save; a later call waits for it.

    A checkpoint of the same step is replaced: an epoch's last step may have
    been saved before it was validated.

    Args:
      step: number of training steps taken.
      params: parameter tree.
      opt_state: the optimizer's.
      progress: JSON values: data position, history.
      reward: validation reward in [0, 1]; None if it was not measured.
    """
    self.wait()
    if step in self._manager.all_steps():
      self._manager.delete(step)
    texts = {'progress': dict(progress)}
    if self._adapter is not None:
      texts['adapter'] = dict(self._adapter)
    trees = {'params': params, 'opt_state': opt_state}
    summed = trees | texts | {'metrics': [_REWARD, reward]}
    texts['sums'] = {k: _checksums(v) for k, v in summed.items()}
    items = {k: _saved(v) for k, v in trees.items()}
    items |= {k: ocp.args.JsonSave(v) for k, v in texts.items()}
    self._manager.save(
      step,
      args=ocp.args.Composite(**items),
      metrics={_REWARD: reward},
    )

  def wait(self) -> None:
    """Returns when every started save is on disk."""
    self._manager.wait_until_finished()

  @property
  def is_saving(self) -> bool:
    """Whether a started save is not on disk yet."""
    return self._manager.is_saving_in_progress()

  def close(self) -> None:
    """Waits for saves and frees the manager's threads."""
    self._manager.close()

  @property
  def latest_step(self) -> int | None:
    """The last saved step, or None."""
    return self._manager.latest_step()

  @property
  def best_step(self) -> int | None:
    """The step of the highest validation reward, or None."""
    steps = self._manager.all_steps()
    return _best({s: _reward(self._manager.metrics(s)) for s in steps})

  def restore(
    self, step: int, params: Any, opt_state: Any
  ) -> tuple[Any, Any, dict[str, Any]]:
    """(params, opt_state, progress) of a step.

    Args:
      step: one that was saved.
      params: tree of arrays or ShapeDtypeStructs with the shardings wanted.
      opt_state: as `params`.

    Raises:
      Damaged: it can't be read, or is not what was saved.
    """
    with _named(self.directory / str(step)):
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          params=_restored(params),
          opt_state=_restored(opt_state),
          progress=ocp.args.JsonRestore(),
        ),
      )
    names = 'params', 'opt_state', 'progress'
    items = {name: restored[name] for name in names}
    _check(self.directory / str(step), **items)
    return tuple(items.values())

  def drop_optimizer(self) -> None:
    """See the function of this name."""
    self.wait()
    drop_optimizer(self.directory)


def drop_optimizer(directory: epath.PathLike) -> None:
  """Deletes the optimizer states, of no use once the M-step has ended.

  With AdamW they are two thirds of the bytes. A manager is not needed, so one
  process can do it for all.
  """
  for path in _absolute(directory).glob('*/opt_state'):
    if path.parent.name.isdecimal():
      path.rmtree()


def _saved(tree: Any) -> ocp.args.PyTreeSave:
  """What to save, in files of 32 MiB, or 64 of larger ones.

  A file is held in memory until it is full. With Orbax's 2 GiB a process whose
  state takes 1.6 GB grows by 1.4 while it saves, with these by 0.3.
  """
  size = sum(x.nbytes for x in jax.tree.leaves(tree))
  file_size = min(max(32 << 20, size // 64), 2 << 30)
  return ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=file_size)


def _restored(tree: Any) -> ocp.args.PyTreeRestore:
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
  how = ocp.checkpoint_utils.construct_restore_args(abstract)
  return ocp.args.PyTreeRestore(abstract, restore_args=how)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(key): leaf.shape
    for key, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _absolute(path: epath.PathLike) -> epath.Path:
  """Orbax refuses relative paths, in a thread, when it writes."""
  if '://' in os.fspath(path):  # `resolve` would take it for a local one
    return epath.Path(path)
  return epath.Path(path).resolve()


def _steps(directory: epath.Path) -> list[epath.Path]:
  """The folders of the steps that were saved."""
  if not directory.is_dir():
    return []
  return [
    step
    for step in directory.iterdir()
    if step.name.isdecimal() and (step / 'params').is_dir()
  ]


def _reward_of(step: epath.Path) -> float | None:
  """Raises Damaged: it is not what was saved."""
  file, sums = step / 'metrics' / 'metrics', step / 'sums' / 'metadata'
  if not file.exists():
    return None
  with _named(step):
    reward = _reward(json.loads(file.read_text()))
    # Earlier versions saved no sums, or none of it.
    saved = json.loads(sums.read_text()) if sums.exists() else {}
    if 'metrics' in saved and saved['metrics'] != _checksums([_REWARD, reward]):
      raise _damaged(step, 'metrics is not what was saved')
  return reward


def params_path(path: epath.PathLike) -> epath.Path | None:
  """Finds the parameters in what a user may name as a checkpoint.

  Either a step's folder, or the folder of an M-step's checkpoints, whose best
  step is taken. None if `path` holds neither.
  """
  path = _absolute(path)
  if (path / 'params').is_dir():
    return path / 'params'
  if not path.is_dir():
    return None
  # By hand: a manager would remove what a running M-step is just saving.
  rewards = {int(step.name): _reward_of(step) for step in _steps(path)}
  if not rewards:
    return None
  best = _best(rewards)
  return path / str(max(rewards) if best is None else best) / 'params'


def adapter_of(path: epath.PathLike) -> dict[str, Any] | None:
  """What a checkpoint's params are adapters of; None if they are a policy.

  Args:
    path: as for `params_path`.
  """
  found = params_path(path)
  file = found and found.parent / 'adapter' / 'metadata'
  if file is None or not file.exists():
    return None
  step = file.parents[1]
  with _named(step):
    adapter = json.loads(file.read_text())
  _check(step, adapter=adapter)
  return adapter


def restore_params(path: epath.PathLike, abstract: Any) -> Any:
  """Parameters alone, onto the shardings of `abstract`, from any mesh.

  Args:
    path: as for `params_path`.
    abstract: tree of ShapeDtypeStructs; what has no sharding comes to this
      process's first device.

  Raises:
    ValueError: `path` holds no checkpoint of ours, or one of another model.
    Damaged: it can't be read, or is not what was saved.
  """
  found = params_path(path)
  if found is None:
    raise ValueError(
      f'{path} holds no checkpoint; name a step, e.g. '
      'MODEL_DIR/iteration_01/checkpoints/42, or the folder above it'
    )
  # Without a sharding Orbax takes the saved one, whose devices, or hosts, need
  # not be here.
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=getattr(x, 'sharding', None) or device
    ),
    abstract,
  )
  # The handler, not a checkpointer: the item has no metadata of its own, for
  # which a checkpointer looks, and warns.
  handler = ocp.StandardCheckpointHandler()
  with _named(found.parent):
    saved = handler.metadata(found)
  have, want = _shapes(saved.tree), _shapes(abstract)
  for name in want | have:
    if have.get(name) != want.get(name):
      raise ValueError(
        f'{found}: {name} has shape {have.get(name)}, the model wants '
        f'{want.get(name)}; give the WEIGHTS that the checkpoint came from'
      )
  with _named(found.parent):
    restored = handler.restore(found, args=ocp.args.StandardRestore(abstract))
  handler.close()
  _check(found.parent, params=restored)
  return restored
