"""Data sets from TFDS, with files in place of its downloads, or nowhere."""

import json
import os
import socket
import sys
import urllib.request

import pytest

pytest.importorskip('seqio')

import tensorflow_datasets as tfds

from restem_jax.data import seqio_tasks


@pytest.fixture
def gsm8k_download(tmp_path, monkeypatch):
  """TFDS's real gsm8k builder, with files in place of its downloads."""
  pytest.importorskip('importlib_resources')
  path = tmp_path / 'rows.jsonl'
  row = {'question': 'How many, {}?', 'answer': 'It is <<1+1=2>>2.\n#### 2'}
  path.write_text(
    ''.join(json.dumps({**row, 'question': f'{i}?'}) + '\n' for i in range(30))
  )
  monkeypatch.setattr(
    tfds.download.DownloadManager,
    'download_and_extract',
    lambda self, urls: dict.fromkeys(urls, os.fspath(path)),
  )
  monkeypatch.setattr(socket, 'getaddrinfo', lambda *args: [])
  monkeypatch.setattr(tfds.core.constants, 'DATA_DIR', os.fspath(tmp_path))
  yield path
  seqio_tasks.register_files('gsm8k')


def test_gsm8k_from_tfds(gsm8k_download):
  seqio_tasks.register_files('gsm8k')
  found = seqio_tasks.SeqioSource('gsm8k', num_shots=0)
  # Train and test hold the same questions here: those of test stay.
  assert len(found.load('test')) == 30
  assert found.load('train') == [] and found.load('validation') == []
  problem = found.load('test')[0]
  assert (problem.answer, problem.solution) == ('2', 'It is 2.\n#### 2')
  assert problem.id.startswith('gsm8k/test/')


def test_nowhere_to_be_had_names_the_flag(monkeypatch, tmp_path):
  def offline(*args, **kwargs):
    raise OSError('no network')

  monkeypatch.setattr(socket, 'getaddrinfo', offline)
  monkeypatch.setattr(urllib.request, 'getproxies', dict)
  monkeypatch.setattr(tfds.core.constants, 'DATA_DIR', os.fspath(tmp_path))
  monkeypatch.setitem(sys.modules, 'datasets', None)
  seqio_tasks.register_files('gsm8k')
  with pytest.raises(ValueError, match=r'--gin\.DATA_PATH') as e:
    seqio_tasks.SeqioSource('gsm8k').load('train')
  assert 'not to be reached (no network)' in str(e.value)
  assert 'restem_jax[hub]' in str(e.value)
