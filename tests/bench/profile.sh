#!/usr/bin/env bash
# Where the processor time of all processes goes under a load, as a flame graph.
set -euo pipefail

usage() {
    cat <<'HELP'
Usage: tests/bench/profile.sh [--escrow FILE] [--after N] [--seconds N] [--out FILE.svg] [-- BENCH ARGUMENTS]

Starts a cluster of one coordinator and two participants, loads it with `escrow bench`, samples all of its processes and the load
generator under perf, and draws a flame graph: the width of a box is the share of all samples, first by process, then by thread.

  --escrow FILE     the binary (target/release/escrow); its symbols are needed
  --after N         seconds of load before that, until files serve again and tables have grown (15)
  --seconds N       how long samples are taken (6)
  --out FILE.svg    the picture (profile.svg)
  --help            this

Examples:
  tests/bench/profile.sh --out bulk.svg
  tests/bench/profile.sh --out unary.svg -- --mode unary --in-flight 1024

The data is in a temporary directory: set TMPDIR if that is in memory, where a sync costs nothing.
Needs perf (Debian: linux-perf), inferno (cargo install inferno) and python3; nothing else here needs the first two.
HELP
}

die() {
    echo "$1" >&2
    exit 2
}

here=$(cd "$(dirname "$0")/../.." && pwd)
escrow=$here/target/release/escrow after=15 seconds=6 out=profile.svg load=(--mode bulk)
while (($#)); do
    case $1 in
    -h | --help) usage && exit ;;
    --escrow) escrow=${2:?"--escrow needs a file"} && shift 2 ;;
    --after) after=${2:?"--after needs a number"} && shift 2 ;;
    --seconds) seconds=${2:?"--seconds needs a number"} && shift 2 ;;
    --out) out=${2:?"--out needs a file"} && shift 2 ;;
    --) shift && load=("$@") && break ;;
    *) usage >&2 && die "unknown argument: $1" ;;
    esac
done
for tool in perf inferno-collapse-perf inferno-flamegraph python3; do
    command -v "$tool" >/dev/null || die "$tool is missing: see --help"
done
[[ -x $escrow ]] || die "$escrow is missing: cargo build --release, or --escrow FILE"
[[ $after =~ ^[0-9]+$ && $seconds =~ ^[1-9][0-9]*$ ]] || die "--after and --seconds are whole numbers"
: >"$out" || die "$out cannot be written"

dir=$(mktemp -d)
up_pid='' bench_pid=''
finish() {
    for pid in $bench_pid $up_pid; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}
trap finish EXIT

"$escrow" up --data-dir "$dir/data" --base-port 0 >"$dir/up.log" 2>&1 &
up_pid=$!
for _ in $(seq 300); do
    [[ -s $dir/data/cluster.json ]] && break
    sleep 0.1
done
[[ -s $dir/data/cluster.json ]] || die "the cluster did not start: $(tail -n 3 "$dir/up.log")"

# Names of the processes, as perf numbers them.
processes() {
    python3 - "$dir/data/cluster.json" <<'PYTHON'
import json, sys
cluster = json.load(open(sys.argv[1]))
print("endpoint", cluster["coordinators"][0]["endpoint"])
for role in ("coordinators", "participants"):
    for process in cluster[role]:
        print(process["pid"], f"{role[:-1]}-{process['id']}")
PYTHON
}
processes >"$dir/processes"
endpoint=$(awk '$1 == "endpoint" { print $2 }' "$dir/processes")
for _ in $(seq 100); do
    "$escrow" status --endpoint "$endpoint" >/dev/null 2>&1 && break
    sleep 0.1
done

"$escrow" bench --endpoint "$endpoint" --duration "$((after + seconds + 2))s" --no-verify "${load[@]}" >"$dir/bench.txt" 2>&1 &
bench_pid=$!
echo "$bench_pid load-generator" >>"$dir/processes"
for _ in $(seq "$after"); do
    kill -0 "$bench_pid" 2>/dev/null || die "the load ended too early: $(tail -n 3 "$dir/bench.txt")"
    sleep 1
done
pids=$(awk '$1 != "endpoint" { print $1 }' "$dir/processes" | paste -sd,)
perf record --quiet --event cpu-clock --freq 199 --call-graph dwarf,8192 --output "$dir/perf.data" --pid "$pids" -- sleep "$seconds"
wait "$bench_pid" || die "the load failed: $(tail -n 3 "$dir/bench.txt")"
bench_pid=''

perf script --no-inline --fields +pid --input "$dir/perf.data" 2>"$dir/perf.log" | inferno-collapse-perf --pid >"$dir/folded" ||
    die "the samples could not be read: $(tail -n 3 "$dir/perf.log")"
# A stack begins with `thread-pid/…`: the process first, then the thread. What starts every thread says nothing.
python3 - "$dir/processes" "$dir/folded" >"$dir/named" <<'PYTHON'
import re, sys
names = dict(line.split() for line in open(sys.argv[1]))
dull = re.compile(r"^(_start|__libc_start.*|main|clone3?|start_thread|std::(rt|sys|thread|panic|panicking)::.*|core::ops::function::.*"
                  r"|tokio::runtime::(runtime|scheduler|context|coop).*|.*LocalKey.*|\[unknown\])$")
for line in open(sys.argv[2]):
    stack, count = line.rsplit(" ", 1)
    first, *frames = stack.split(";")
    thread, pid = first.rsplit("-", 1)
    name = names.get(pid.split("/")[0], thread)
    thread = "main" if thread.startswith("escrow") else thread
    print(";".join([name, thread] + [frame for frame in frames if not dull.match(frame)]), count, end="")
PYTHON
inferno-flamegraph --title "escrow bench ${load[*]}" --subtitle "share of all samples, by process and thread; $seconds s on $(nproc) processors" \
    --countname samples --minwidth 0.3 --width 1400 <"$dir/named" >"$out"
grep -h "transfers/s\|per second" "$dir/bench.txt" | head -n 1 || true
echo "written to $out"
