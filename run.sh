#!/usr/bin/env bash
# Start the worker, from any directory: ./run.sh --addr HOST:PORT
# Ends in exec, so that signals and the watch on the parent process reach the worker itself.
set -euo pipefail

self="$(realpath "$0" 2>/dev/null || readlink -f "$0")"
here="$(dirname "$self")"

python="${MLX_WORKER_PYTHON:-}"
if [ -z "$python" ]; then
  python="$here/.venv/bin/python"
  [ -x "$python" ] || python=python3
fi

# A host that dies before Python can ask who its parent is would go unnoticed.
export MLX_WORKER_STARTED_BY="$$:$PPID"

# -P: a directory named backend where we were started from must not come before ours.
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -P -m backend "$@"
