"""The cache: where it is, sums of files, whole files or none."""

import hashlib
import pathlib

import pytest

from restem_jax.weights import cache

CONTENT = b'weights' * 1000


def test_root_of_the_cache(monkeypatch, tmp_path):
  monkeypatch.setenv('RESTEM_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  assert cache.root() == tmp_path / 'cache'
  monkeypatch.delenv('RESTEM_CACHE')
  assert cache.root() == tmp_path / 'xdg' / 'restem_jax'
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert cache.root() == pathlib.Path.home() / '.cache' / 'restem_jax'


def test_sums_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
  monkeypatch.setenv('RESTEM_CACHE', str(tmp_path / 'cache'))
  path = tmp_path / 'file'
  path.write_bytes(CONTENT)
  expected = hashlib.sha256(CONTENT).hexdigest()
  assert cache.file_sha256(path) == cache.compute_sha256(path) == expected
  with monkeypatch.context() as m:  # the second time, nothing is read
    m.setattr(cache, 'compute_sha256', None)
    assert cache.file_sha256(path) == expected
  path.write_bytes(CONTENT + b'!')
  expected = hashlib.sha256(CONTENT + b'!').hexdigest()
  assert cache.file_sha256(path) == expected


def test_a_failed_write_leaves_nothing(tmp_path):
  with pytest.raises(RuntimeError):
    with cache.atomic(tmp_path / 'file') as temporary:
      temporary.write_text('half')
      raise RuntimeError
  assert not list(tmp_path.iterdir())
