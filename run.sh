#!/usr/bin/env bash
# Start the worker, from any directory: ./run.sh --addr HOST:PORT
# Ends in exec, so that signals and the watch on the parent process reach the worker itself.
set -euo pipefail

self="$(realpath "$0" 2>/dev/null || readlink -f "$0")"
here="$(dirname "$self")"

python="${MLX_WORKER_PYTHON:-}"
if [ -z "$python" ]; then
  python="$here/.venv/bin/python"
  # Another Python would end in an import error, which hosts do not show.
  if [ ! -x "$python" ]; then
    echo "mlx-worker: no environment at $here/.venv: run make setup in $here, or name a Python in MLX_WORKER_PYTHON" >&2
    exit 2
  fi
fi

# A host that dies before Python can ask who its parent is would go unnoticed.
export MLX_WORKER_STARTED_BY="$$:$PPID"

# -P: a directory named backend where we were started from must not come before ours.
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -P -m backend "$@"
