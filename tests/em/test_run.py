"""Where an M-step starts, and checkpoints that are no iteration's."""

import functools
import json
import shutil

import cases
import optax
import pytest
import runs

from restem_jax import checkpoints, main
from restem_jax.em import loop
from restem_jax.rewards.math import MathGrader
from restem_jax.training import optimizers
from restem_jax.training.trainer import Trainer


@pytest.mark.parametrize('init', ['previous', *cases.further('base')])
def test_where_an_m_step_starts(
  tmp_path, init, undisturbed, model_path, problem_task, sampling, make_params,
  sampler,
):  # fmt: skip
  """With a learning rate of 0 it ends where it starts."""
  first = shutil.copytree(
    undisturbed[0] / 'iteration_01', tmp_path / 'iteration_01'
  )
  shutil.copytree(first / 'dataset', tmp_path / 'iteration_02' / 'dataset')
  rate = functools.partial(optimizers.constant, value=0.0)
  system = loop.System(
    model_dir=str(tmp_path),
    weights=str(model_path),
    task=problem_task,
    sampling=sampling,
    trainer=Trainer(
      num_epochs=1, row_len=128, optimizer=optax.sgd, schedule=rate
    ),
    init=init,
  )
  system.improve()
  abstract = sampler.model.abstract_params()
  trained, start = (
    runs.arrays(checkpoints.restore_params(tmp_path / i / 'checkpoints', abstract))
    for i in ('iteration_02', 'iteration_01')
  )  # fmt: skip
  base = runs.arrays(make_params())
  equal = lambda a, b: all((a[k] == b[k]).all() for k in a)
  assert not equal(start, base)
  assert equal(trained, base if init == 'base' else start)


def test_what_workers_judged_is_kept(undisturbed, flags, monkeypatch):
  """The grader is told where, before anything is graded."""
  told = []
  monkeypatch.setattr(MathGrader, 'remember', lambda _, path: told.append(path))
  flags = [*flags, runs.in_folder(undisturbed[0]), '--run_mode=select']
  assert main.main(flags) == 0
  assert told == [undisturbed[0] / 'memo' / 'jsonl-0.jsonl']


def test_any_checkpoint_is_evaluated(
  tmp_path, flags, undisturbed, make_params, capsys
):
  def evaluate(checkpoint):
    flag = f'--gin.CHECKPOINT={str(checkpoint)!r}'
    mode = '--run_mode=evaluate'
    return main.main([*flags, runs.in_folder(tmp_path / 'run'), flag, mode])

  def reports():
    found = (tmp_path / 'run' / 'evaluations').glob('*/jsonl-test/report.json')
    return sorted(path.read_text() for path in found)

  def of_iteration(i):
    path = undisturbed[0] / f'iteration_0{i}/eval/jsonl-test/report.json'
    return path.read_text()

  trained = undisturbed[0] / 'iteration_01' / 'checkpoints'
  best = json.loads((trained / 'improve.json').read_text())['best_step']
  assert evaluate(trained) == 0
  assert 'jsonl/test' in capsys.readouterr().out
  assert reports() == [of_iteration(1)]
  assert evaluate(trained / str(best)) == 0
  assert reports() == [of_iteration(1)]  # the same one, named by its step

  # The folders of another run have the same names.
  other = tmp_path / 'other' / 'iteration_01' / 'checkpoints'
  store = checkpoints.Checkpoints(other)
  store.save(best, make_params(), {'count': make_params()['final_norm']}, {}, 1.0)  # fmt: skip
  store.close()
  assert evaluate(other) == 0
  assert of_iteration(0) != of_iteration(1)
  assert reports() == sorted([of_iteration(0), of_iteration(1)])
  assert evaluate(tmp_path / 'none') == 2
  message = f'error: {tmp_path / "none"} holds no checkpoint; name a step'
  assert message in capsys.readouterr().err
