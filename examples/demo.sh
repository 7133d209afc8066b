#!/bin/sh
# Starts a server, tunes a classifier on it with the command line, and stops the server.
#   BIN   folder of the fixnorm-tune command (default .venv/bin)
#   KEEP  1 leaves the server running for the dashboard
#   JOB   job file (default: the recipe 'digits')
# The exit status is that of 'fixnorm-tune submit --watch': 0 only if the job succeeded.
set -u

BIN=${BIN:-.venv/bin}
START_SECONDS=120
server=

stop_server() {
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null
        wait "$server" 2>/dev/null
        server=
    fi
}
trap 'stop_server; exit 130' INT
trap 'stop_server; exit 143' TERM
trap stop_server EXIT

# A folder of its own for each run: a server that an earlier run left running keeps its files.
mkdir -p .demo && work=$(mktemp -d .demo/run.XXXXXX) || exit 2
log=$work/server.log
url_file=$work/server.url

"$BIN/fixnorm-tune" serve --port 0 --state-dir "$work/state" --url-file "$url_file" >"$log" 2>&1 &
server=$!
echo "starting the server (log: $log)"

waited=0
while [ ! -s "$url_file" ]; do
    if ! kill -0 "$server" 2>/dev/null; then
        echo "error: the server ended before it answered; the end of $log:" >&2
        tail -n 20 "$log" >&2
        exit 5
    fi
    if [ "$waited" -ge "$START_SECONDS" ]; then
        echo "error: the server did not answer within $START_SECONDS s; the end of $log:" >&2
        tail -n 20 "$log" >&2
        exit 5
    fi
    sleep 1
    waited=$((waited + 1))
done
url=$(cat "$url_file")
echo "the server answers at $url"

if [ -n "${JOB:-}" ]; then
    "$BIN/fixnorm-tune" submit "$JOB" --watch --server "$url"
else
    "$BIN/fixnorm-tune" submit --recipe digits --watch --server "$url"
fi
status=$?

if [ "${KEEP:-}" = 1 ]; then
    echo
    echo "dashboard: $url/dashboard"
    echo "the server keeps running; stop it with: kill $server"
    server=
else
    echo
    echo "the server stops now, and its dashboard with it; 'make demo KEEP=1' leaves it running"
fi
exit "$status"
