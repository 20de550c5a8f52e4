import importlib.metadata
import io
import logging
import os
import platform
import subprocess
import sys

import pytest

from restem_jax import environment


def test_versions():
  versions = environment.versions()
  assert versions['python'] == platform.python_version()
  assert versions['jax'] == importlib.metadata.version('jax')


def git(folder, *arguments):
  identity = ['-c', 'user.name=x', '-c', 'user.email=x@example.org']
  return subprocess.run(
    ['git', '-C', str(folder), *identity, *arguments],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()


def test_git_revision_tells_changes(tmp_path):
  assert environment.git_revision(tmp_path) == ''
  git(tmp_path, 'init')
  assert environment.git_revision(tmp_path) == ''  # no commit yet
  (tmp_path / 'file').write_text('one')
  git(tmp_path, 'add', 'file')
  git(tmp_path, 'commit', '-m', 'one')
  head = git(tmp_path, 'rev-parse', 'HEAD')
  assert environment.git_revision(tmp_path) == head
  (tmp_path / 'file').write_text('two')
  assert environment.git_revision(tmp_path) == head + '+changes'
  # A folder inside somebody else's checkout is not that checkout.
  (tmp_path / 'inner').mkdir()
  assert environment.git_revision(tmp_path / 'inner') == ''


def test_import_noise_is_dropped_and_nothing_else(capfd):
  with environment.without_import_noise():
    os.write(2, b'WARNING: All log messages before absl::InitializeLog()\n')
    os.write(2, b'I0000 00:00:17.25 1 port.cc:153] oneDNN is on.\n')
    os.write(2, b'W0000 00:00:17.25 1 port.cc:153] listen\n')
    os.write(2, b'In plain words\n')
  assert capfd.readouterr().err.splitlines() == [
    'W0000 00:00:17.25 1 port.cc:153] listen',
    'In plain words',
  ]
  with (
    pytest.raises(RuntimeError),
    environment.without_import_noise(),
  ):
    os.write(2, b'last words\n')
    raise RuntimeError
  assert capfd.readouterr().err == 'last words\n'


def test_log_lines(monkeypatch):
  err = io.StringIO()
  monkeypatch.setattr('sys.stderr', err)
  before = logging.getLogger().handlers[:], logging.getLogger().level
  with environment.logging_to_stderr():
    logging.getLogger('restem_jax.em.loop').info('iteration %d', 1)
    logging.getLogger('restem_jax.em.loop').debug('too much')
    for name in ('absl', 'orbax.checkpoint', 'jax._src', 'someone'):
      logging.getLogger(name).info('noise')
    logging.getLogger('someone').warning('listen')
  lines = err.getvalue().splitlines()
  assert [line.split(maxsplit=1)[1] for line in lines] == [
    'INFO iteration 1',
    'WARNING listen',
  ]
  assert before == (logging.getLogger().handlers, logging.getLogger().level)


def test_a_terminal_gets_rich_lines(monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  err = Terminal()
  monkeypatch.setattr('sys.stderr', err)
  monkeypatch.setenv('TERM', 'xterm')
  with environment.logging_to_stderr():
    logging.getLogger('restem_jax').info('hello')
  assert 'hello' in err.getvalue()
  assert '\x1b[' in err.getvalue()  # colours


def test_compiled_programs_are_kept_where_jax_was_told(monkeypatch, tmp_path):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  code = (
    'import pathlib, sys, jax; from restem_jax import environment; '
    'environment.use_compilation_cache(pathlib.Path(sys.argv[1])); '
    'jax.jit(lambda x: jax.numpy.sort(x) @ x)(jax.numpy.ones(9)); '
    'print(jax.config.jax_compilation_cache_dir)'
  )

  def used(folder):
    command = [sys.executable, '-c', code, str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    return out.stdout.strip()

  assert used(tmp_path / 'a') == str(tmp_path / 'a')
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'b'))
  assert used(tmp_path / 'a') == str(tmp_path / 'b')


def test_a_further_process_logs_what_is_wrong_under_its_name(capfd):
  with environment.logging_to_stderr():
    environment.log_as('process 3')
    logging.getLogger('restem_jax.em').info('progress')
    logging.getLogger('restem_jax.em').warning('trouble')
  err = capfd.readouterr().err
  assert 'process 3 WARNING trouble' in err and 'progress' not in err
