"""The M-step's loop: batches in, the best parameters out.

In: initial parameters, a feed of packed examples, a function that measures
the validation reward. Out: checkpoints, the best of them by that reward. What
is *not* here: text, tasks, what a reward is.

Order inside an epoch matters: the data position is saved together with the
state that has seen exactly the batches before it, so a killed run goes on
with the very next batch.
"""

from collections.abc import Callable, Mapping
import dataclasses
import itertools
import logging
import math
import signal
import threading
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
import optax

from restem_jax import (
  checkpoints as checkpoints_lib,
  metrics as metrics_lib,
  multihost,
  partitioning,
)
from restem_jax.models import kernels, remat
from restem_jax.models.transformer import Model, Params
from restem_jax.training import batches, losses, optimizers, step as step_lib
from restem_jax.training.lora import Lora

_log = logging.getLogger(__name__)


class Preempted(Exception):
  """SIGTERM came: the state is saved, the same command goes on from it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
  """How to train.

  Attributes:
    num_epochs: passes over the examples at most.
    batch_size: packed rows of a batch, B.
    row_len: tokens of a packed row, T; None: a quarter more than the longest
      example has, up to a multiple of 128, at least 256.
    num_microbatches: the batch is split into so many for gradient
      accumulation; divides batch_size.
    optimizer: called with `learning_rate=<schedule>`, e.g. `optax.adamw`.
    schedule: called with the number of steps, e.g. `optimizers.warmup_cosine`.
    clip_norm: global norm that gradients are clipped to; None for no clipping.
    normalizer: real_tokens, per_sequence or per_problem (`batches`).
    share_prefixes: examples of a row share what their prompts begin with
      (`packing`): the same loss for a fraction of the tokens.
    remat: what the backward pass keeps of a layer: none (everything), full
      (nothing), dots, or names of what to keep (`models.remat`).
    scan_layers: compiles one layer for all of them. False compiles each: steps
      are faster on GPUs, which copy what a scan keeps for the backward pass.
      None: False on GPUs that hold all weights, True elsewhere.
    attention: auto, xla, splash or cudnn (`models.kernels`).
    loss_chunk: tokens whose vocabulary-wide logits a device holds at a time;
      None: `losses.default_chunk`.
    compiler_options: XLA's flags for the step, of the mesh's platform.
    lora: trains low-rank updates of frozen weights; None trains all weights.
    patience: validations without a better reward before training stops.
    save_every: steps between saves inside an epoch; 0 saves at its end only.
    seed: of the shuffles.
  """

  num_epochs: int = 3
  batch_size: int = 4
  row_len: int | None = None
  num_microbatches: int = 1
  optimizer: Callable[..., optax.GradientTransformation] = optax.adamw
  schedule: Callable[[int], optax.Schedule] = optimizers.warmup_cosine
  clip_norm: float | None = 1.0
  normalizer: str = 'real_tokens'
  share_prefixes: bool = True
  remat: str = 'none'
  scan_layers: bool | None = None
  attention: str = 'auto'
  loss_chunk: int | None = None
  compiler_options: Mapping[str, str] | None = None
  lora: Lora | None = None
  patience: int = 1
  save_every: int = 0
  seed: int = 0

  def __post_init__(self):
    for name in ('num_epochs', 'batch_size', 'num_microbatches', 'loss_chunk'):
      if (value := getattr(self, name)) is not None and value < 1:
        raise ValueError(f'Trainer.{name}={value}; write 1 or more')
    if self.batch_size % self.num_microbatches:
      raise ValueError(
        f'Trainer.batch_size={self.batch_size} must be a multiple of '
        f'num_microbatches={self.num_microbatches}'
      )
    if self.normalizer not in batches.NORMALIZERS:
      raise ValueError(
        f'Trainer.normalizer={self.normalizer!r}; write one of '
        f'{", ".join(batches.NORMALIZERS)}'
      )
    try:
      remat.check(self.remat)
      kernels.check(self.attention)
    except ValueError as e:
      raise ValueError(f'Trainer.{e}') from None

  def feed(self, examples, iteration: int) -> batches.Feed:
    """The batches of an M-step; the iteration is part of the seed."""
    row_len = self.row_len
    if row_len is None:
      lengths = (len(e.prompt_ids) + len(e.target_ids) for e in examples)
      longest = max(lengths, default=0)  # none: the feed says so
      row_len = max(256, math.ceil(1.25 * longest / 128) * 128)
    return batches.Feed(
      examples=examples,
      batch_size=self.batch_size,
      row_len=row_len,
      seed=self.seed + 7919 * iteration,
      normalizer=self.normalizer,
      share_prefixes=self.share_prefixes,
    )

  def make_optimizer(self, total_steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of so many steps, clipping included."""
    optimizer = self.optimizer(learning_rate=self.schedule(total_steps))
    if self.clip_norm is None:
      return optimizer
    return optax.chain(optax.clip_by_global_norm(self.clip_norm), optimizer)

  def fit(
    self,
    model: Model,
    init_params: Callable[[], Params],
    feed: batches.Feed,
    checkpoints: checkpoints_lib.Checkpoints,
    validate: Callable[[Params], float],
    writer: metrics_lib.Writer,
    what: str = 'train',
    mesh: Mesh | None = None,
    frozen: Callable[[], Params] | None = None,
  ) -> list[Mapping[str, Any]]:
    """Trains until the epochs end or the validation reward stops rising.

    Args:
      model: architecture and compute dtype; the params stay f32.
      init_params: gives the starting parameters, which are donated; with
        `lora`, the adapters.
      feed: what to train on.
      checkpoints: latest is resumed; best is the result.
      validate: validation reward in [0, 1] of parameters; with `lora`, of
        the merged ones, in the dtype of the frozen ones.
      writer: gets loss and gradient norm of each step, and the reward.
      what: the name of the work for the progress bar.
      mesh: where parameters and batches lie, by the rules; None for one
        device.
      frozen: gives the base weights, donated too; with `lora` only.

    Returns:
      The history: one {'epoch', 'step', 'reward'} per validation.

    Raises:
      ValueError: the mesh does not divide the batch.
      FloatingPointError: loss or gradient norm is not finite; names the
        examples of the batch.
      Preempted: on SIGTERM, after saving.
    """
    # The step at which each epoch ends.
    ends = list(
      itertools.accumulate(map(feed.num_batches, range(self.num_epochs)))
    )
    total = ends[-1]
    optimizer = self.make_optimizer(total)
    rows = self._check_rows(mesh)
    state = step_lib.init_state(
      model, optimizer, init_params(), mesh, self.lora, frozen and frozen()
    )
    if mesh is None:
      # Committed, as the step returns it: else the second step compiles again.
      state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, state))
    epoch, position, history = 0, None, []
    if (latest := checkpoints.latest_step) is not None:
      params, opt_state, saved = checkpoints.restore(
        latest, state.params, state.opt_state
      )
      state = state._replace(
        step=state.step + latest, params=params, opt_state=opt_state
      )
      epoch, position = saved['epoch'], saved['position']
      history = saved['history']
      _log.info('%s: going on from step %d of %d', what, latest, total)
    train_step = self.make_step(model, optimizer, feed.row_len, mesh)
    num_steps = int(state.step)
    with (
      _sigterm() as stop,
      metrics_lib.progress(what, total, num_steps) as bar,
    ):
      while epoch < self.num_epochs and not self._stopped(history):
        batch_iter = feed.epoch(epoch, rows)
        if position is not None:
          batch_iter.set_state(position)
        note = 'resumed at its end'
        for batch in batch_iter:
          index = batch.pop('index')
          if mesh is not None:
            batch = partitioning.global_batch(mesh, batch, self.batch_size)
          state, metrics = train_step(state, batch)
          metrics = {k: float(v) for k, v in metrics.items()}
          _check_finite(metrics, feed, index)
          num_steps += 1
          writer.write(num_steps, metrics)
          note = f'loss {metrics["loss"]:.3f}'
          bar.advance(note=note)
          # An epoch's last step is saved once, together with its reward.
          save = self.save_every and num_steps % self.save_every == 0
          # Whichever host it came to, all save the same step.
          stopping = multihost.any_host(stop.is_set())
          if (save and num_steps < ends[epoch]) or stopping:
            progress = {
              'epoch': epoch,
              'position': batch_iter.get_state(),
              'history': history,
            }
            self._save(checkpoints, state, num_steps, progress, None)
          if stopping:
            checkpoints.wait()
            raise Preempted(f'{what}: saved at step {num_steps}')
        epoch, position = epoch + 1, None
        reward = validate(self._policy(model, state, mesh))
        history = [
          *history,
          {'epoch': epoch, 'step': num_steps, 'reward': reward},
        ]
        writer.write(num_steps, {'validation_reward': reward})
        _log.info(
          '%s: epoch %d of %d, step %d: %s, validation reward %.3f',
          *(what, epoch, self.num_epochs, num_steps, note, reward),
        )
        progress = {'epoch': epoch, 'position': None, 'history': history}
        self._save(checkpoints, state, num_steps, progress, reward)
        if multihost.any_host(stop.is_set()):  # it came during validation
          checkpoints.wait()
          raise Preempted(f'{what}: saved at step {num_steps}')
    checkpoints.wait()
    return history

  def make_step(
    self,
    model: Model,
    optimizer: optax.GradientTransformation,
    row_len: int,
    mesh: Mesh | None = None,
  ) -> step_lib.TrainStep:
    """The jitted step for rows of so many tokens on a mesh.

    Raises:
      ValueError: `attention` is none that can run there.
    """
    platform = partitioning.platform(mesh)
    try:
      implementation = kernels.choose(
        self.attention,
        platform=platform,
        config=model.config,
        dtype=model.dtype,
        row_len=row_len,
      )
    except ValueError as e:
      raise ValueError(f'Trainer.{e}') from None
    scan_layers = self.scan_layers
    if scan_layers is None:
      whole = mesh is None or mesh.shape['fsdp'] * mesh.shape['tensor'] == 1
      scan_layers = not (whole and platform == 'gpu')
    return step_lib.make_train_step(
      model,
      optimizer,
      num_microbatches=self.num_microbatches,
      remat=self.remat,
      scan_layers=scan_layers,
      implementation=implementation,
      loss_chunk=self.loss_chunk or losses.default_chunk(platform),
      mesh=mesh,
      lora=self.lora,
      compiler_options=self.compiler_options,
    )

  def _check_rows(self, mesh: Mesh | None) -> list[int] | None:
    """The rows of each batch that this process feeds; None for all."""
    if mesh is None:
      return None
    parts = partitioning.batch_parts(mesh)
    if self.batch_size % (self.num_microbatches * parts):
      raise ValueError(
        f'Trainer.batch_size={self.batch_size} must be a multiple of '
        f'num_microbatches={self.num_microbatches} times {parts}, the '
        'data x fsdp devices of the mesh'
      )
    return partitioning.local_rows(mesh, self.batch_size)

  def _policy(self, model: Model, state: step_lib.State, mesh) -> Params:
    """The parameters of the policy that the state stands for."""
    if self.lora is None:
      return state.params
    return self.lora.merged(model, state.frozen, state.params, mesh)

  def _save(self, checkpoints, state, step, progress, reward):
    checkpoints.save(step, state.params, state.opt_state, progress, reward)

  def _stopped(self, history) -> bool:
    rewards = [h['reward'] for h in history]
    best = int(np.argmax(rewards)) if rewards else 0
    return len(rewards) - best > self.patience


def _check_finite(metrics, feed: batches.Feed, index) -> None:
  if all(map(math.isfinite, metrics.values())):
    return
  ids = [feed.examples[i].id for i in np.unique(index) if i >= 0]
  raise FloatingPointError(
    f'loss {metrics["loss"]}, gradient norm {metrics["grad_norm"]} on the '
    f'batch of {", ".join(ids)}; lower the learning rate or look at these '
    'examples'
  )


class _sigterm:
  """While it lasts, SIGTERM sets an event instead of ending the process."""

  def __enter__(self) -> threading.Event:
    event = threading.Event()
    self._old = None
    if threading.current_thread() is threading.main_thread():
      self._old = signal.signal(signal.SIGTERM, lambda *_: event.set())
    return event

  def __exit__(self, *_):
    if self._old is not None:
      signal.signal(signal.SIGTERM, self._old)
