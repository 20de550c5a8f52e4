"""A whole run on a mesh of the eight devices equals that of one device."""

import shutil

import numpy as np
import pytest
import runs

from restem_jax import checkpoints, main, shards

ROWS = '--gin.trainer.Trainer.batch_size=4'
MESH = [
  '--gin_file=meshes/fsdp.gin',
  '--gin.partitioning.MeshShape.data=2',
  '--gin.partitioning.MeshShape.tensor=2',
]


def check_samples(path, expected):
  """All but the last digits of log-probabilities, whose sums are split."""
  many, one = shards.read_shard(path), shards.read_shard(expected)
  for row, want in zip(many, one, strict=True):
    found, logprobs = row.pop('logprobs'), want.pop('logprobs')
    assert row == want
    np.testing.assert_allclose(found, logprobs, atol=1e-4)


def trained(folder, abstract):
  path = folder / 'iteration_01' / 'checkpoints'
  return runs.arrays(checkpoints.restore_params(path, abstract))


@pytest.mark.slow('30 s: a run on eight devices, and its M-step on one')
def test_a_run_on_a_mesh(
  tmp_path, flags, files, expected, begun, undisturbed, sampler
):
  folder = tmp_path / 'run'
  flags = [*flags, ROWS]
  assert main.main([*flags, *MESH, runs.in_folder(folder)]) == 0
  found = files(folder)
  names = [k for k in expected if k.startswith('iteration_01/samples/samples-')]
  for name in (n for n in names if n.endswith('.jsonl')):
    check_samples(folder / name, undisturbed[0] / name)
  parts = 'iteration_01/samples/verdicts-', 'iteration_01/dataset/'
  same = [k for k in expected if k.startswith(parts)]
  same += [f'iteration_00/eval/jsonl-{x}/report.json' for x in ('test', 'validation')]  # fmt: skip
  assert len(same) > 10
  assert [k for k in same if found[k] != expected[k]] == []

  # The M-step on one device, with as many rows to a batch.
  config = begun / 'config.gin'
  config.write_text((folder / 'config.gin').read_text())
  assert main.main([*flags, runs.in_folder(begun)]) == 0
  assert sorted(files(begun)) == sorted(found)
  abstract = sampler.model.abstract_params()
  one, many = trained(begun, abstract), trained(folder, abstract)
  # A tenth of one step: Adam divides by the gradient, be it mere rounding.
  for name in one:
    np.testing.assert_allclose(many[name], one[name], atol=1e-3, err_msg=name)

  # One of them may go on where the other was: a mesh is no part of a run.
  shutil.rmtree(folder / 'iteration_01' / 'eval')
  assert main.main([*flags, runs.in_folder(folder)]) == 0
  assert files(folder)['summary.json'] == found['summary.json']


@pytest.mark.parametrize(
  'flag, words',
  [
    ('trainer.Trainer.batch_size=6', 'batch_size=6 must be a multiple of'),
    ('generate.Sampling.num_slots=6', 'num_slots=6 must be a multiple of 4'),
    ('partitioning.MeshShape.tensor=4', '2 kv_heads, which mesh tensor=4 does'),
    ('partitioning.MeshShape.tensor=3', 'does not divide 8 devices'),
  ],
)
def test_a_mesh_that_does_not_fit(begun, flags, flag, words, capsys):
  (begun / 'config.gin').unlink()
  flags = [*flags, ROWS, *MESH, f'--gin.{flag}', runs.in_folder(begun)]
  assert main.main([*flags, '--run_mode=improve']) == 2
  err = capsys.readouterr().err
  (line,) = [x for x in err.splitlines() if x.startswith('error: ')]
  assert words in line
