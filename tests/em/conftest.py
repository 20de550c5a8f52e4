"""A tiny random model that solves some problems, and runs of it.

The model is random but for one thing: its head favours the few tokens that
answers are made of, so that several samples in ten are right at once.
"""

from collections.abc import Callable
import json
import pathlib
import shutil
from typing import Any

from etils import epath
import pytest
import runs
from safetensors import numpy as safetensors_numpy
import tiny

from restem_jax.data import jsonl, prompts
from restem_jax.em import generate, task as task_lib
from restem_jax.models.transformer import Model
from restem_jax.rewards import extraction, math
from restem_jax.sampling import policies
from restem_jax.tokenizer import Tokenizer
from restem_jax.weights import load

NUM_PROBLEMS = {'train': 14, 'validation': 4, 'test': 6}


@pytest.fixture(scope='session')
def model_path(tmp_path_factory) -> pathlib.Path:
  """A Hugging Face folder; its model writes mostly 1, 2, dots, newlines."""
  folder = tiny.write_tiny_hf_model(
    tmp_path_factory.mktemp('weights') / 'model', tie_word_embeddings=False
  )
  file = folder / 'model.safetensors'
  tensors = {k: v.copy() for k, v in safetensors_numpy.load_file(file).items()}
  # One dimension is the same for every token, so the head's column of it is a
  # bias, which Llama models have not.
  tensors['model.embed_tokens.weight'][:, 0] = 4.0
  bias = tensors['lm_head.weight'][:, 0]
  bias[:] = -4.0
  tokenizer = Tokenizer.from_directory(folder)
  for text, value in (('1', 1.0), ('2', 1.0), ('.', 0.5), ('\n', 1.0)):
    (i,) = tokenizer.encode(text)
    bias[i] = value
  bias[tokenizer.eos_ids[0]] = 0.7
  safetensors_numpy.save_file(tensors, file)
  return folder


def write_problems(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """A folder of splits; the answers are 1 and 2 in turn."""
  folder.mkdir()
  number = 100 * seed
  for split, count in NUM_PROBLEMS.items():
    lines = []
    for _ in range(count):
      row = {'question': f'What is item {number}?', 'answer': number % 2 + 1}
      row['id'] = f'{split}/{number}'
      lines.append(json.dumps(row | {'answer': str(row['answer'])}) + '\n')
      number += 1
    (folder / f'{split}.jsonl').write_text(''.join(lines))
  return folder


@pytest.fixture(scope='session')
def problems_path(tmp_path_factory) -> pathlib.Path:
  return write_problems(tmp_path_factory.mktemp('problems') / 'digits')


@pytest.fixture(scope='session')
def flags(model_path, problems_path) -> list[str]:
  """The command line of a small run, but for MODEL_DIR."""
  macros = {
    'WEIGHTS': str(model_path),
    'DATA_PATH': str(problems_path),
    'NUM_ITERATIONS': 1,
    'NUM_SAMPLES': 16,
    'loop.System.dtype': 'float32',  # bf16 would tell meshes apart
    'generate.Sampling.num_slots': 8,
    'generate.Sampling.steps_per_call': 4,
    'generate.Sampling.prefill_tokens': 64,
    'generate.Sampling.problems_per_shard': 3,
    'select.Selection.max_per_problem': 2,
    'task.Task.max_new_tokens': 6,
    'trainer.Trainer.num_epochs': 3,
    'trainer.Trainer.patience': 3,
    'trainer.Trainer.batch_size': 1,
    'trainer.Trainer.row_len': 128,
    'trainer.Trainer.share_prefixes': False,  # so many batches
    'optimizers.warmup_cosine.peak': 0.01,
  }
  return [
    '--gin_file=jsonl.gin',
    *(f'--gin.{name}={value!r}' for name, value in macros.items()),
  ]


@pytest.fixture(scope='session')
def problem_task(problems_path) -> task_lib.Task:
  """The task of `flags`, built without gin."""
  return task_lib.Task(
    source=jsonl.JsonlSource(problems_path, name='digits', num_shots=2),
    prompt=prompts.PromptTemplate(num_shots=2),
    grader=math.MathGrader(
      extract=extraction.first_line, symbolic=False, require_evaluated=True
    ),
    max_new_tokens=6,
  )


@pytest.fixture(scope='session')
def sampling() -> generate.Sampling:
  return generate.Sampling(
    num_samples=4,
    policy=policies.Policy(temperature=0.7, top_k=40),
    num_slots=8,
    steps_per_call=4,
    prefill_tokens=64,
    problems_per_shard=3,
  )


@pytest.fixture(scope='session')
def sampler(model_path, problem_task, sampling) -> generate.Sampler:
  """The tiny model's; its engine compiles once for all tests."""
  reader = load.open_weights(str(model_path))
  model = Model(reader.config)
  return generate.Sampler(problem_task, model, reader.tokenizer(), sampling)


@pytest.fixture(scope='session')
def make_params(model_path, sampler) -> Callable[[], object]:
  """Loads the tiny model's parameters anew: training donates them."""
  reader = load.open_weights(str(model_path))
  return lambda: load.load_params(reader, sampler.model.abstract_params())


@pytest.fixture(scope='session')
def params(make_params):
  return make_params()


@pytest.fixture
def directory(tmp_path) -> epath.Path:
  return epath.Path(tmp_path)


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory, flags):
  """(folder, ended process): a whole run that nothing stops, without TF."""
  folder = tmp_path_factory.mktemp('undisturbed') / 'run'
  ended = runs.command(
    [*flags, runs.in_folder(folder)], blocked=runs.TENSORFLOW
  )
  assert ended.returncode == 0, ended.stderr
  return folder, ended


@pytest.fixture(scope='session')
def files(sampler) -> Callable[[pathlib.Path], dict[str, Any]]:
  """What a run left on disk, in a form in which equal runs are equal."""
  abstract = sampler.model.abstract_params()
  return lambda directory: runs.final_files(directory, abstract)


@pytest.fixture(scope='session')
def expected(undisturbed, files) -> dict[str, Any]:
  """What the run that nothing stopped left."""
  return files(undisturbed[0])


@pytest.fixture
def begun(tmp_path, undisturbed) -> pathlib.Path:
  """A run that has selected its examples and not yet trained."""
  folder = tmp_path / 'begun'
  ignored = shutil.ignore_patterns('checkpoints', 'metrics', 'summary.json')
  shutil.copytree(undisturbed[0], folder, ignore=ignored)
  shutil.rmtree(folder / 'iteration_01' / 'eval')
  return folder
