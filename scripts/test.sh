#!/bin/sh
# Style, types and tests, in .venv as scripts/setup.sh has made it. Arguments go to pytest; without any, what is marked as
# long is left out (make test-all).
# Everything is run whatever failed before it, so that one run shows all there is to mend; pytest's summary comes last.
cd "$(dirname "$0")/.." || exit 1
[ $# -gt 0 ] || set -- -m "not long"
status=0
.venv/bin/ruff check . || status=1
.venv/bin/mypy || status=1
.venv/bin/pytest "$@" || status=1
exit $status
