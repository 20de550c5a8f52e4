"""A run's checkpoint as a folder of the hub, by the command line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from restem_jax import main
from restem_jax.em.policy import Policies


def exported(flags, checkpoint, output):
  return main.main(
    [
      *flags,
      runs.in_folder(output.parent / 'none'),
      '--run_mode=export',
      f'--gin.CHECKPOINT={str(checkpoint)!r}',
      f'--gin.OUTPUT={str(output)!r}',
    ]
  )


def logits(policies, params):
  tokens = jnp.arange(3, 43).reshape(2, 20)
  return policies.model.forward(params, tokens)


def test_read_back(tmp_path, flags, undisturbed, model_path, capsys):
  trained = undisturbed[0] / 'iteration_01' / 'checkpoints'
  output = tmp_path / 'exported'
  assert exported(flags, trained, output) == 0
  assert f'a Hugging Face folder now: {output}' in capsys.readouterr().out
  assert not (tmp_path / 'none').exists()  # it is no run
  base, back = (Policies(str(p), 'float32') for p in (model_path, output))
  assert back.model == base.model
  prints = base.fingerprints(), back.fingerprints()
  assert prints[0]['tokenizer'] == prints[1]['tokenizer']
  assert prints[0]['weights'] != prints[1]['weights']
  params = base.restore(trained)
  assert jax.tree.all(jax.tree.map(np.array_equal, back.base(), params))
  expected = logits(base, params)
  np.testing.assert_array_equal(logits(back, back.base()), expected)
  assert np.abs(logits(base, base.base()) - expected).max() > 0.01

  assert exported(flags, trained, output) == 2
  error = capsys.readouterr().err
  assert f'error: {output} holds a model already; give an OUTPUT' in error
  assert exported(flags, tmp_path / 'nothing', tmp_path / 'other') == 2
  assert 'nothing holds no checkpoint; name a step' in capsys.readouterr().err


@pytest.mark.parametrize('given, missing', [('OUTPUT', 'CHECKPOINT'), ('CHECKPOINT', 'OUTPUT')])  # fmt: skip
def test_what_is_missing(flags, given, missing, capsys):
  code = main.main([*flags, '--run_mode=export', f'--gin.{given}="there"'])
  assert code == 2
  (line,) = [x for x in capsys.readouterr().err.splitlines() if x]
  assert f'error: --run_mode=export needs {missing}: write --gin.' in line
