#!/usr/bin/env bash
# Start the worker, from any directory: ./run.sh --addr HOST:PORT
# In a package that a host has installed, the first start makes the environment; --setup-only does that and no more.
# Ends in exec, so that signals and the watch on the parent process reach the worker itself.
set -euo pipefail

self="$(realpath "$0" 2>/dev/null || readlink -f "$0")"
here="$(dirname "$self")"

# A host that dies before Python can ask who its parent is would go unnoticed.
export MLX_WORKER_STARTED_BY="$$:$PPID"

python="${MLX_WORKER_PYTHON:-}"
if [ -z "$python" ]; then
  python="$here/.venv/bin/python"
  if [ -e "$here/first-run.py" ]; then
    # Anew where the list is another one: a host may have put a newer package over this one.
    made_for="$here/.venv/requirements.txt"
    # In the shell: a small image need not have cmp.
    if [ ! -x "$python" ] || [ ! -e "$made_for" ] || [ "$(<"$here/requirements/worker.txt")" != "$(<"$made_for")" ]; then
      # A host that was started from a desktop has few places in its PATH.
      base="$(PATH="$PATH:/opt/homebrew/bin:/usr/local/bin" sh "$here/find-python")" || exit 6
      code=0
      "$base" -I "$here/first-run.py" || code=$?
      case "$code" in 0) ;; 130) exit 130 ;; *) exit 6 ;; esac
    fi
  # Another Python would end in an import error, which hosts do not show.
  elif [ ! -x "$python" ]; then
    echo "mlx-worker: no environment at $here/.venv: run make setup in $here, or name a Python in MLX_WORKER_PYTHON" >&2
    exit 2
  fi
elif ! command -v "$python" >/dev/null; then
  echo "mlx-worker: MLX_WORKER_PYTHON: $python is no program" >&2
  exit 2
fi

if [ "${1:-}" = --setup-only ]; then
  echo "mlx-worker: ready to start with $python" >&2
  exit 0
fi

# -P: a directory named backend where we were started from must not come before ours.
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -P -m backend "$@"
