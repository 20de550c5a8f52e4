"""Strict switches for every test, set before any test imports jax's backend.

Eight CPU devices (sharding tests run in this process), no silent rank
promotion, and compiled programs kept between runs of the suite.
"""

import os

# Tests run on the CPU wherever they run; an explicit choice wins.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# Not by `jax.config`: processes that tests start are to share it.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  os.path.join(
    os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'),
    'restem_jax/test_programs',
  ),
)

import hypothesis
import jax
import pytest

# Programs of a few tiny layers: with XLA's optimizations compiling takes most
# of the suite's time (test_step.py 187 s, without them 54, jax 0.10.2). Read
# when a backend starts, here and in processes that tests start; XLA_FLAGS= in
# the environment tests what users run, as .ci/run does for models of real size.
_FLAGS = ['--xla_backend_optimization_level=0']
if jax.__version_info__ < (0, 12):  # later ones don't know it, and abort
  _FLAGS += ['--xla_cpu_use_fusion_emitters=false']
os.environ.setdefault('XLA_FLAGS', ' '.join(_FLAGS))

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)

# The same examples on every run and machine; no deadline, since the first
# example of a jitted function pays for its compilation.
hypothesis.settings.register_profile(
  'restem', derandomize=True, deadline=None, max_examples=50, database=None
)
hypothesis.settings.load_profile('restem')


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """A process gets whole files, and one of them all of em/, for its runs.

  Not of the slow ones, which mostly wait for processes of their own.
  """
  from xdist.scheduler import LoadFileScheduling

  if config.option.dist != 'loadfile':  # of another choice xdist takes care
    return None

  class Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid):
      file = super()._split_scope(nodeid)
      together = file.startswith('tests/em/') and not config.option.slow
      return 'tests/em' if together else file

  return Scheduling(config, log)


def pytest_addoption(parser):
  parser.addoption(
    '--slow', action='store_true', help='also run tests marked slow'
  )


def pytest_collection_modifyitems(config, items):
  if config.getoption('--slow'):
    return
  for item in items:
    if marker := item.get_closest_marker('slow'):
      reason = marker.args[0] if marker.args else 'no reason given'
      skip = pytest.mark.skip(reason=f'slow ({reason}); run with --slow')
      item.add_marker(skip)
