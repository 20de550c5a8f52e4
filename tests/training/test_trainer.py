"""The loop: what is best, when it stops, and that no kill changes anything."""

import dataclasses
import functools
import json
import os
import re
import signal

from etils import epath
import jax
import networks
import numpy as np
import optax
import packed
import pytest

from restem_jax import checkpoints as checkpoints_lib, metrics, partitioning
from restem_jax.training import optimizers, step as step_lib
from restem_jax.training.trainer import Preempted, Trainer

TRAINER = Trainer(
  num_epochs=3,
  batch_size=2,
  row_len=packed.ROW_LEN,
  patience=9,
  optimizer=functools.partial(optax.adamw, mask=optimizers.matrices),
  schedule=functools.partial(optimizers.warmup_cosine, peak=0.01),
)
EXAMPLES = packed.random_examples(16)
FEED = TRAINER.feed(EXAMPLES, 1)
NUM_BATCHES = [FEED.num_batches(epoch) for epoch in range(3)]


class Killed(Exception):
  pass


class Writer(metrics.Writer):
  """Calls `at` with the number of each training step, as a bad day would."""

  at = staticmethod(lambda step: None)

  def write(self, step, scalars):
    super().write(step, scalars)
    if 'loss' in scalars:
      self.at(step)


def initial(mesh):
  model, params = networks.build()
  if mesh is None:
    return params
  shardings = partitioning.shardings(mesh, model.logical_axes())
  return jax.device_put(params, shardings)


class Run:
  """One folder, in which `fit` is called as often as it takes."""

  def __init__(self, folder, trainer=TRAINER, rewards=(0.2, 0.5, 0.4)):
    self.folder, self.trainer = epath.Path(folder), trainer
    self.rewards = rewards
    self.validated = 0

  def fit(self, at=lambda step: None, validate=None, feed=None, mesh=None):
    checkpoints = checkpoints_lib.Checkpoints(self.folder / 'checkpoints')
    writer = Writer(self.folder, 'improve')
    writer.at = at
    try:
      return self.trainer.fit(
        networks.build()[0],
        lambda: initial(mesh),
        FEED if feed is None else feed,
        checkpoints,
        self.validate if validate is None else validate,
        writer,
        mesh=mesh,
      )
    finally:
      checkpoints.close()
      writer.close()

  def validate(self, params):
    """The rewards in turn; they are of parameters, not of a moment."""
    del params
    self.validated += 1
    return self.rewards[self.validated - 1]

  def rows(self):
    """What was written of each step; a later row replaces an earlier one."""
    rows = {}
    for line in (self.folder / 'improve.jsonl').read_text().splitlines():
      row = json.loads(line)
      del row['time']
      rows[row['step'], 'loss' in row] = row
    return rows

  def params(self, step=None):
    path = self.folder / 'checkpoints'
    path = path if step is None else path / str(step)
    return checkpoints_lib.restore_params(
      path, networks.build()[0].abstract_params()
    )

  @property
  def steps(self):
    names = [p.name for p in (self.folder / 'checkpoints').iterdir()]
    return sorted(map(int, names))


@pytest.fixture(scope='module', autouse=True)
def traced_once():
  """Equal runs share optimizer and step: tracing them is most of a short run.

  Processes of their own, which share nothing, are killed in `em`.
  """
  make_optimizer, made = Trainer.make_optimizer, {}

  def shared(self, total):
    key = (total, self.optimizer, self.schedule, self.clip_norm)
    if key not in made:
      made[key] = make_optimizer(self, total)
    return made[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Trainer, 'make_optimizer', shared)
    make_step = functools.cache(step_lib.make_train_step)
    patch.setattr(step_lib, 'make_train_step', make_step)
    yield


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


ENDS = np.cumsum(NUM_BATCHES).tolist()
HISTORY = [
  {'epoch': 1, 'step': ENDS[0], 'reward': 0.2},
  {'epoch': 2, 'step': ENDS[1], 'reward': 0.5},
  {'epoch': 3, 'step': ENDS[2], 'reward': 0.4},
]


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  run = Run(tmp_path_factory.mktemp('undisturbed'))
  assert run.fit() == HISTORY
  return run


def test_a_run(undisturbed):
  assert min(NUM_BATCHES) >= 3  # there is something in the middle of an epoch
  # The best is kept, and the last.
  assert undisturbed.steps == ENDS[1:]
  assert_equal(undisturbed.params(), undisturbed.params(ENDS[1]))
  rows = undisturbed.rows()
  steps = range(1, ENDS[-1] + 1)
  assert [rows[step, True]['step'] for step in steps] == list(steps)
  rewards = [rows[step, False]['validation_reward'] for step in ENDS]
  assert rewards == [0.2, 0.5, 0.4]
  losses = [rows[step, True]['loss'] for step in steps]
  assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_a_finished_run_is_not_trained_again(undisturbed):
  before = undisturbed.rows()

  def never(_):
    raise AssertionError('it was')

  assert undisturbed.fit(at=never, validate=never) == HISTORY
  assert undisturbed.rows() == before


def kill_at(step, error=Killed):
  def at(now):
    if now == step:
      raise error

  return at


def preempt_at(step):
  def at(now):
    if now == step:
      os.kill(os.getpid(), signal.SIGTERM)

  return at


def check_resumed(run, undisturbed):
  """Goes on; then all is as if nothing had happened, bit for bit."""
  assert run.fit() == HISTORY
  assert run.steps == undisturbed.steps
  assert run.rows() == undisturbed.rows()
  for step in run.steps:
    assert_equal(run.params(step), undisturbed.params(step))


@pytest.mark.parametrize(
  'step', [1, ENDS[0], ENDS[0] + 2], ids=['first', 'epoch_end', 'middle']
)
def test_sigterm_saves_and_the_next_call_goes_on(tmp_path, undisturbed, step):
  run = Run(tmp_path)
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(Preempted, match=f'saved at step {step}'):
    run.fit(at=preempt_at(step))
  assert signal.getsignal(signal.SIGTERM) is before
  assert run.steps[-1] == step
  assert max(step for step, _ in run.rows()) == step
  check_resumed(run, undisturbed)


@pytest.mark.parametrize('epoch', [1, 3])
def test_sigterm_while_validating(tmp_path, undisturbed, epoch):
  run = Run(tmp_path)

  def validate(params):
    if run.validated == epoch - 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return run.validate(params)

  with pytest.raises(Preempted, match=f'saved at step {ENDS[epoch - 1]}'):
    run.fit(validate=validate)
  assert run.validated == epoch
  check_resumed(run, undisturbed)


@pytest.mark.parametrize('killed', [2, ENDS[0] + 2])
def test_a_kill_goes_back_to_the_last_save(tmp_path, undisturbed, killed):
  """save_every=2: also where it falls on the end of an epoch."""
  run = Run(tmp_path, dataclasses.replace(TRAINER, save_every=2))
  with pytest.raises(Killed):
    run.fit(at=kill_at(killed))
  check_resumed(run, undisturbed)


def test_a_kill_while_validating(tmp_path, undisturbed):
  every = next(n for n in (3, 2, 4, 5) if ENDS[1] % n == 0 or n == 5)
  run = Run(tmp_path, dataclasses.replace(TRAINER, save_every=every))

  def validate(params):
    if run.validated == 1:
      raise Killed
    return run.validate(params)

  with pytest.raises(Killed):
    run.fit(validate=validate)
  check_resumed(run, undisturbed)


def test_every_step_may_be_saved(tmp_path, undisturbed):
  """The rewards of epochs' ends are not lost to an earlier save of them."""
  run = Run(tmp_path, dataclasses.replace(TRAINER, save_every=1))
  check_resumed(run, undisturbed)


def test_training_stops_when_rewards_stall(tmp_path):
  # The second and third are no better than the first.
  trainer = dataclasses.replace(TRAINER, patience=2, num_epochs=3)
  run = Run(tmp_path, trainer, rewards=(0.5, 0.5, 0.4, 0.9))
  many = dataclasses.replace(trainer, num_epochs=4)
  run.trainer = many
  history = run.fit()
  assert [h['reward'] for h in history] == [0.5, 0.5, 0.4]
  # Of equals the earliest is the best; another call does not train on.
  assert run.steps == [history[0]['step'], history[2]['step']]
  assert_equal(run.params(), run.params(history[0]['step']))
  assert run.fit() == history and run.validated == 3


def test_patience_counts_from_the_best():
  stopped = lambda patience, rewards: dataclasses.replace(
    TRAINER, patience=patience
  )._stopped([{'reward': r} for r in rewards])
  assert not stopped(1, [])
  assert not stopped(1, [0.1]) and not stopped(1, [0.1, 0.2])
  assert stopped(1, [0.1, 0.2, 0.2])
  assert not stopped(2, [0.1, 0.0]) and stopped(2, [0.1, 0.0, 0.1])
  assert not stopped(2, [0.1, 0.0, 0.2])


def test_a_loss_that_is_not_finite_names_its_examples(tmp_path):
  trainer = dataclasses.replace(TRAINER, batch_size=1, row_len=12)
  examples = [
    dataclasses.replace(e, weight=np.inf if e.id == 'p3#6' else 1.0)
    for e in EXAMPLES
  ]
  feed = trainer.feed(examples, 1)
  (row,) = (row for row in feed.rows(0) if 6 in row)
  assert len(row) < 4
  run = Run(tmp_path, trainer)
  with pytest.raises(FloatingPointError, match='on the batch of ') as error:
    run.fit(feed=feed)
  names = str(error.value).split('batch of ')[1].split(';')[0]
  assert names == ', '.join(EXAMPLES[i].id for i in sorted(row))
  # Nothing of it is saved or shown as a step.
  assert run.steps == []
  assert feed.rows(0).index(row) + 1 not in {step for step, _ in run.rows()}


@pytest.mark.slow('7 s each: trains on a mesh')
@pytest.mark.parametrize('sizes', [(2, 1, 1), (1, 2, 2)], ids=str)
def test_a_mesh_trains_alike_and_compiles_once(
  tmp_path, undisturbed, sizes, caplog
):
  devices = jax.devices()[: int(np.prod(sizes))]
  mesh = partitioning.make_mesh(*sizes, devices=devices)
  run = Run(tmp_path)
  with jax.log_compiles(), caplog.at_level('WARNING', 'jax'):
    assert run.fit(mesh=mesh) == HISTORY
  compiled = re.findall(
    r'Finished XLA compilation of jit\((\w+)\)', caplog.text
  )
  assert compiled.count('step') == 1, compiled
  # A checkpoint goes from any mesh to any other.
  for step in run.steps:
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=5e-5),
      run.params(step),
      undisturbed.params(step),
    )


OPTIMIZERS = {
  'bf16_moment': functools.partial(optax.adamw, mu_dtype='bfloat16'),
  'adafactor': functools.partial(optax.adafactor, min_dim_size_to_factor=8),
  'adafactor_bf16_momentum': functools.partial(
    optax.adafactor,
    min_dim_size_to_factor=8,
    momentum=0.9,
    dtype_momentum='bfloat16',
  ),
}


@pytest.mark.slow('10 s each: four programs')
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_other_optimizer_states_train_and_resume_on_a_mesh(tmp_path, name):
  """On 8 devices; a kill changes no bit, and dtypes survive the disk."""
  trainer = dataclasses.replace(
    TRAINER,
    optimizer=OPTIMIZERS[name],
    batch_size=4,
    num_epochs=2,
    num_microbatches=1,
    save_every=1,
  )
  feed = trainer.feed(EXAMPLES, 1)
  mesh = partitioning.make_mesh(2, 2, 2)
  whole, killed = (Run(tmp_path / x, trainer) for x in ('whole', 'killed'))
  history = whole.fit(feed=feed, mesh=mesh)
  with pytest.raises(Killed):
    killed.fit(at=kill_at(3), feed=feed, mesh=mesh)
  assert killed.fit(feed=feed, mesh=mesh) == history
  assert killed.rows() == whole.rows()
  assert_equal(killed.params(), whole.params())
  losses = [
    row['loss'] for _, row in sorted(whole.rows().items()) if 'loss' in row
  ]
  assert losses[-1] < losses[0]
  # What is on the disk has the dtypes and, read back, the places of the state.
  model = networks.build()[0]
  optimizer = trainer.make_optimizer(history[-1]['step'])
  state = step_lib.init_state(model, optimizer, initial(mesh), mesh)
  want = jax.tree.map(lambda x: (x.dtype, x.sharding), state.opt_state)
  dtypes = {str(x.dtype) for x in jax.tree.leaves(state.opt_state)}
  assert ('bfloat16' in dtypes) == ('bf16' in name)
  saved = checkpoints_lib.Checkpoints(whole.folder / 'checkpoints')
  _, opt_state, _ = saved.restore(
    history[-1]['step'], state.params, state.opt_state
  )
  saved.close()
  jax.tree.map(
    lambda x, want: (x.dtype, x.sharding) == want or pytest.fail(str(want)),
    opt_state,
    want,
  )
  assert any(x.any() for x in jax.tree.leaves(opt_state))


def test_a_mesh_that_does_not_divide_the_batch(tmp_path):
  mesh = partitioning.make_mesh()
  with pytest.raises(
    ValueError, match='batch_size=2 must be a multiple of num_'
  ):
    Run(tmp_path).fit(mesh=mesh)


def test_the_feed_of_an_iteration():
  feed = Trainer(batch_size=3, seed=5, normalizer='per_sequence').feed(
    EXAMPLES, 2
  )
  assert (feed.batch_size, feed.normalizer) == (3, 'per_sequence')
  assert feed.row_len == 256
  seeds = {
    dataclasses.replace(TRAINER, seed=seed).feed(EXAMPLES, i).seed
    for seed in (0, 1)
    for i in (1, 2)
  }
  assert len(seeds) == 4
  # A quarter more than 410 tokens is 512.5: the next multiple of 128.
  long = dataclasses.replace(
    EXAMPLES[0], prompt_ids=(1,) * 409, target_ids=(2,)
  )
  assert Trainer().feed([long], 1).row_len == 640
  with pytest.raises(ValueError, match='nothing to train on'):
    Trainer().feed([], 1)


def test_the_optimizer_clips_first():
  gradient = {'x': np.array([3.0, 4.0], np.float32)}
  trainer = Trainer(
    optimizer=optax.sgd,
    schedule=functools.partial(optimizers.constant, value=2.0),
  )
  for clip_norm, expected in ((1.0, [-1.2, -1.6]), (None, [-6, -8])):
    optimizer = dataclasses.replace(trainer, clip_norm=clip_norm)
    optimizer = optimizer.make_optimizer(10)
    update, _ = optimizer.update(gradient, optimizer.init(gradient))
    np.testing.assert_allclose(update['x'], expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'batch_size': 3, 'num_microbatches': 2}, 'batch_size=3 must be a multip'),
    ({'num_microbatches': 0}, 'num_microbatches=0; write 1 or more'),
    ({'batch_size': 0}, 'batch_size=0; write 1 or more'),
    ({'num_epochs': 0}, 'num_epochs=0; write 1 or more'),
    ({'remat': 'all'}, r"remat='all'; write none \(keep everything\), full"),
    ({'remat': 'qkv,mpl'}, "remat='qkv,mpl'; .* some of qkv, attention, resid"),
    ({'attention': 'flash'}, "attention='flash'; write one of auto, xla, spl"),
    ({'normalizer': 'mean'}, "normalizer='mean'; write one of real_tokens, "),
  ],
)
def test_bad_settings_say_what_to_write(fields, message):
  with pytest.raises(ValueError, match=f'Trainer.{message}'):
    Trainer(**fields)
