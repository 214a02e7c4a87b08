#!/bin/sh
# Style, types and tests, in .venv as scripts/setup.sh has made it. Arguments go to pytest.
# Without any: everything but what is marked as long (make test-all). Labs wait for hosts and kernels most of the time;
# all other tests are run beside them, at lower priority, and told after them.
# Everything is run whatever failed before it, so that one run shows all there is to mend; pytest's summaries come last.
cd "$(dirname "$0")/.." || exit 1
status=0
.venv/bin/ruff check . || status=1
.venv/bin/mypy || status=1
if [ $# -gt 0 ]; then
    .venv/bin/pytest "$@" || status=1
    exit $status
fi
beside=$(mktemp)
# A shell has what it starts beside itself ignore Ctrl-C.
trap 'kill "$rest" 2>/dev/null; rm -f "$beside"' EXIT
trap 'exit 130' INT TERM
nice -n 10 .venv/bin/pytest -m "not long" --ignore=tests/lab >"$beside" 2>&1 &
rest=$!
.venv/bin/pytest -m "not long" --durations=25 tests/lab || status=1
wait $rest || status=1
cat "$beside"
exit $status
