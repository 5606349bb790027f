#!/usr/bin/env bash
# What one dead participant of three costs transfers among the other two: the rate before and during, in one run, several
# rounds so that noise shows. Usage: isolation.sh [ESCROW [MODE [SECONDS [ROUNDS]]]]; exit code 1 when it costs more than 10 %.
set -euo pipefail
escrow=${1:-target/release/escrow} mode=${2:-bulk} seconds=${3:-5} rounds=${4:-3}
dir=$(mktemp -d)
up_pid=
finish() {
    if [[ -n $up_pid ]]; then
        kill -TERM "$up_pid" 2>/dev/null || true
        wait "$up_pid" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap finish EXIT

field() { python3 -c 'import json, sys; value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]: value = value[int(key) if key.isdigit() else key]
print(value)' "$@"; }

rate() {
    "$escrow" bench --endpoint "$endpoint" --shards 0,1 --mode "$mode" --duration "${seconds}s" --warmup 1s --no-verify -o json \
        >"$dir/bench.json"
    field "$dir/bench.json" per_second
}

before=() during=()
for round in $(seq "$rounds"); do
    data=$dir/round-$round
    "$escrow" up --data-dir "$data" --participants 3 --base-port 0 --restart never >"$dir/up.log" 2>&1 &
    up_pid=$!
    for _ in $(seq 300); do [[ -s $data/cluster.json ]] && break; sleep 0.1; done
    endpoint=$(field "$data/cluster.json" coordinators 0 endpoint)
    before+=("$(rate)")
    kill -KILL "$(field "$data/cluster.json" participants 2 pid)"
    during+=("$(rate)")
    echo "round $round: before ${before[-1]} during ${during[-1]} transfers/s"
    kill -TERM "$up_pid" && wait "$up_pid"
    up_pid=
done
python3 - "${before[*]}" "${during[*]}" <<'PYTHON'
import statistics, sys
before, during = (statistics.median(map(float, text.split())) for text in sys.argv[1:])
print(f"medians: before {before:.0f}, during {during:.0f} transfers/s: {100 * (during / before - 1):+.1f} %")
sys.exit(0 if during > 0.9 * before else 1)
PYTHON
