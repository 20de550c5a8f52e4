"""Orbax checkpoints: latest to go on from, best to sample from.

In: a training state, where the data stands, a validation reward. Out: the
same, onto any mesh. What is *not* here: when to save (`training.trainer`).

A checkpoint holds `params` (f32), `opt_state` and `progress` (JSON); where
`params` are adapters, `adapter` (JSON) says of what. Orbax writes into a
temporary folder and renames it, so a killed save leaves no checkpoint that
looks whole. Nothing here unpickles.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

_REWARD = 'validation_reward'


def _best(rewards: Mapping[int, float | None]) -> int | None:
  """The step of the highest reward, the earliest of equals."""
  measured = {step: r for step, r in rewards.items() if r is not None}
  if not measured:
    return None
  return min(measured, key=lambda step: (-measured[step], step))


def _reward(metrics: Mapping[str, float] | None) -> float | None:
  return (metrics or {}).get(_REWARD)


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
    items: dict[str, Any] = {
      'params': _saved(params),
      'opt_state': _saved(opt_state),
      'progress': ocp.args.JsonSave(dict(progress)),
    }
    if self._adapter is not None:
      items['adapter'] = ocp.args.JsonSave(dict(self._adapter))
    self._manager.save(
      step,
      args=ocp.args.Composite(**items),
      metrics=None if reward is None else {_REWARD: reward},
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
    """
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=_restored(params),
        opt_state=_restored(opt_state),
        progress=ocp.args.JsonRestore(),
      ),
    )
    return restored['params'], restored['opt_state'], restored['progress']

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
  rewards = {}
  for step in path.iterdir():
    if step.name.isdecimal() and (step / 'params').is_dir():
      file = step / 'metrics' / 'metrics'
      metrics = json.loads(file.read_text()) if file.exists() else None
      rewards[int(step.name)] = _reward(metrics)
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
  return json.loads(file.read_text()) if file and file.exists() else None


def restore_params(path: epath.PathLike, abstract: Any) -> Any:
  """Parameters alone, onto the shardings of `abstract`, from any mesh.

  Args:
    path: as for `params_path`.
    abstract: tree of ShapeDtypeStructs; what has no sharding comes to this
      process's first device.

  Raises:
    ValueError: `path` holds no checkpoint of ours, or one of another model.
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
  saved = handler.metadata(found)
  have, want = _shapes(saved.tree), _shapes(abstract)
  for name in want | have:
    if have.get(name) != want.get(name):
      raise ValueError(
        f'{found}: {name} has shape {have.get(name)}, the model wants '
        f'{want.get(name)}; give the WEIGHTS that the checkpoint came from'
      )
  restored = handler.restore(found, args=ocp.args.StandardRestore(abstract))
  handler.close()
  return restored
