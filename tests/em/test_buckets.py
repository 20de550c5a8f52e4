"""Runs whose folder is a bucket, on a small server that speaks GCS's API.

Two things that the server lacks and the clients need are added to it here.
"""

import contextlib
import json
import os
import re
import socket

import pytest
import runs

reason = "pip install 'restem_jax[gcs]' gcp-storage-emulator"
gcsfs = pytest.importorskip('gcsfs', reason=reason)
server_lib = pytest.importorskip('gcp_storage_emulator.server', reason=reason)
objects = pytest.importorskip('gcp_storage_emulator.handlers.objects')


def move(request, response, storage):
  """objects.moveTo, which the server lacks and gcsfs renames by."""
  request.params['dest_bucket_name'] = request.params['bucket_name']
  objects.copy(request, response, storage)
  if int(response.status) == 200:
    storage.delete_file(
      request.params['bucket_name'], request.params['object_id']
    )


_download = objects.download


def download(request, response, storage):
  """Says which generation it is: Orbax replaces no other than that."""
  found = request.params['bucket_name'], request.params['object_id']
  with contextlib.suppress(objects.NotFound):
    generation = storage.get_file_obj(*found)['generation']
    response['x-goog-generation'] = generation
  _download(request, response, storage)


@pytest.fixture
def bucket(monkeypatch):
  pattern = (
    f'^{re.escape(server_lib.settings.API_ENDPOINT)}'
    r'/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.*[^/]+)/moveTo/o/'
    r'(?P<dest_object_id>.*[^/]+)$'
  )
  monkeypatch.setattr(objects, 'download', download)
  handlers = [(pattern, {'POST': move})]
  for known, methods in server_lib.HANDLERS:
    methods = {k: download if v is _download else v for k, v in methods.items()}
    handlers.append((known, methods))
  monkeypatch.setattr(server_lib, 'HANDLERS', handlers)
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  server = server_lib.create_server(
    '127.0.0.1', port, in_memory=True, default_bucket='bucket'
  )
  server.start()
  url = f'http://127.0.0.1:{port}'
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', url)  # of gcsfs
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', url)  # of Orbax
  # Else it asks for credentials, to see what kind of bucket it is.
  monkeypatch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
  yield 'gs://bucket'
  server.stop()


@pytest.mark.slow('two runs; every file is a request')
def test_a_run_killed_and_resumed(tmp_path, bucket, flags, files, expected):
  flags = [*flags, f'--gin.MODEL_DIR={bucket + "/run"!r}']
  ended = runs.command(flags, at='save', count=2, blocked=runs.TENSORFLOW)
  assert ended.returncode < 0, ended.stderr
  ended = runs.command(flags, blocked=runs.TENSORFLOW)
  assert ended.returncode == 0, ended.stderr
  filesystem = gcsfs.GCSFileSystem(
    endpoint_url=os.environ['STORAGE_EMULATOR_HOST']
  )
  filesystem.get('bucket/run', str(tmp_path / 'run'), recursive=True)
  runs.check_same(files(tmp_path / 'run'), expected)
  folder = tmp_path / 'run'
  lines = (folder / 'metrics' / 'improve_01.jsonl').read_text().splitlines()
  outcome = folder / 'iteration_01' / 'checkpoints' / 'improve.json'
  num_steps = json.loads(outcome.read_text())['num_steps']
  assert json.loads(lines[-1])['step'] == num_steps
