"""A server on this machine that speaks SandboxFusion's API, for tests.

It runs the tests' own harmless programs in plain subprocesses, and fails on
demand as the real one does.
"""

import base64
from collections.abc import Iterator
import contextlib
import http.server
import json
import pathlib
import subprocess
import sys
import threading
import time


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    assert self.path == '/run_code'
    length = int(self.headers['Content-Length'])
    request = json.loads(self.rfile.read(length))
    self.server.requests.append(request)
    failure = self.server.failures.pop(0) if self.server.failures else None
    if isinstance(failure, int):
      self.send_error(failure)
      return
    body = failure or json.dumps(self.run(request)).encode()
    self.send_response(200)
    self.end_headers()
    self.wfile.write(body)

  def run(self, request):
    folder = pathlib.Path(self.server.folder)
    assert request['language'] == 'python'
    for name, content in request['files'].items():
      (folder / name).write_bytes(base64.b64decode(content))
    start = time.monotonic()
    try:
      done = subprocess.run(
        [sys.executable, '-c', request['code']],
        input=request.get('stdin', ''),
        capture_output=True,
        text=True,
        timeout=request['run_timeout'],
        cwd=folder,
      )
      result = {
        'status': 'Finished',
        'return_code': done.returncode,
        'stdout': done.stdout,
        'stderr': done.stderr,
      }
    except subprocess.TimeoutExpired:
      result = {'status': 'TimeLimitExceeded', 'return_code': None}
    ok = result.get('return_code') == 0
    return {
      'status': 'Success' if ok else 'Failed',
      'message': '',
      'run_result': result | {'execution_time': time.monotonic() - start},
      'files': {
        name: base64.b64encode((folder / name).read_bytes()).decode()
        for name in request['fetch_files']
        if (folder / name).exists()
      },
    }

  def log_message(self, *args):
    pass


@contextlib.contextmanager
def serving(folder: pathlib.Path, port: int = 0) -> Iterator:
  """Serves; its `failures` are given instead of answers, in order."""
  server = http.server.HTTPServer(('127.0.0.1', port), _Handler)
  server.requests, server.failures, server.folder = [], [], folder
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield server
  server.shutdown()
  thread.join()
  server.server_close()
