#!/usr/bin/env python3
"""Measures what README.md and docs/performance.md quote, in rounds, and prints it as a table."""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BULK = ["--mode", "bulk", "--transfers", "6000000"]
ONE = ["--mode", "unary", "--in-flight", "1", "--transfers", "2000"]
# What is measured on one cluster, in this order. Rates unless the name says p50.
FIGURES = {
    "bulk": BULK,
    "stream": ["--mode", "stream", "--transfers", "2000000"],
    "unary": ["--mode", "unary", "--in-flight", "1024", "--transfers", "120000", "--wire"],
    "decided-p50": [*ONE, "--wait", "decided", "--wire"],
    "completed-p50": [*ONE, "--wait", "completed"],
    "one-shard": [*BULK, "--cross-shard", "0"],
    "hot": [*BULK, "--skew", "hot"],
}
# Minutes each, on a cluster of their own: only when they are named.
LONG = {
    "accounts-10k": ["--mode", "bulk", "--transfers", "30000000", "--accounts", "10000"],
    "accounts-10m": ["--mode", "bulk", "--transfers", "30000000", "--accounts", "10000000"],
    "half-p99": ["--mode", "bulk", "--warmup", "15s"],
    "sustained": ["--mode", "bulk", "--transfers", "100000000", "--interval", "5s"],
}
EPILOG = """figures:
  bulk, stream, unary, one-shard, hot      transfers a second
  decided-p50, completed-p50               one caller, milliseconds
  accounts-10k, accounts-10m, sustained    transfers a second, minutes each: only if named
  half-p99                                 open loop at --rate for --seconds, milliseconds: only if named

examples:
  tests/bench/figures.py                                          # what the README quotes
  tests/bench/figures.py --rounds 3 --only bulk,stream
  tests/bench/figures.py --escrow old=/tmp/escrow --escrow new=target/release/escrow --only bulk
  tests/bench/figures.py --only half-p99 --rate 700000 --rounds 1

Builds take turns within each round, each on clusters of its own, so that what the machine does meanwhile is the same for all.
Every run is verified. "Stolen" is the time that the machine underneath took from this one while a figure was measured.
Exit code: 0 measured, 1 a run failed or did not verify, 2 it could not be measured."""


def build(text):
    """LABEL=FILE, or FILE."""
    label, _, file = text.rpartition("=")
    path = Path(file)
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{path} is missing: cargo build --release, or name another")
    return label or "escrow", path.resolve()


def names(text):
    """Figures, with commas between them."""
    chosen = text.split(",")
    unknown = [name for name in chosen if name not in FIGURES and name not in LONG]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no figure {', '.join(unknown)}")
    return chosen


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--escrow", action="append", type=build, metavar="[LABEL=]FILE", help="a build; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="medians are of so many (5)")
    parser.add_argument("--only", type=names, default=list(FIGURES), metavar="NAMES", help="these figures")
    parser.add_argument("--rate", type=int, default=700_000, metavar="N", help="of half-p99, a second (700000)")
    parser.add_argument("--seconds", type=int, default=300, metavar="N", help="of half-p99 (300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run, a line each")
    chosen = parser.parse_args()
    if chosen.rounds < 1 or chosen.rate < 1 or chosen.seconds < 1:
        parser.error("--rounds, --rate and --seconds must be above zero")
    if chosen.escrow is None:
        try:
            chosen.escrow = [build(str(ROOT / "target/release/escrow"))]
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
    return chosen


@contextlib.contextmanager
def cluster(escrow):
    """A coordinator and two participants in a new directory: gives the directory and the endpoint."""
    with tempfile.TemporaryDirectory(prefix="escrow-figures-") as directory:
        data = Path(directory) / "data"
        with open(Path(directory) / "up.log", "w", encoding="utf-8") as log:
            command = [escrow, "up", "--data-dir", data, "--base-port", "0"]
            up = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            manifest = data / "cluster.json"
            deadline = time.monotonic() + 60
            while not (manifest.exists() and manifest.stat().st_size):
                if up.poll() is not None or time.monotonic() > deadline:
                    sys.stderr.write(f"the cluster does not start:\n{(Path(directory) / 'up.log').read_text()}")
                    sys.exit(2)
                time.sleep(0.05)
            yield Path(directory), json.loads(manifest.read_text())["coordinators"][0]["endpoint"]
        finally:
            if up.poll() is None:
                up.send_signal(signal.SIGTERM)
            up.wait()


def stolen():
    """Time taken from this machine and all time, both since its start, in ticks of all processors."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[7], sum(ticks)


def measure(escrow, name, directory, endpoint, chosen):
    """One run: what `escrow bench` tells of it, and what was stolen meanwhile."""
    load = {**FIGURES, **LONG}[name]
    if name == "half-p99":
        load = [*load, "--rate", str(chosen.rate), "--duration", f"{chosen.seconds}s"]
    if "--wire" in load:
        load = [*load, "--wire-dir", str(directory)]
    before = stolen()
    command = [escrow, "bench", "--endpoint", endpoint, *load, "-o", "json"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    after = stolen()
    if run.returncode != 0:
        sys.stderr.write(run.stderr)
        sys.exit(f"{name}: escrow bench ended with {run.returncode}")
    result = json.loads(run.stdout)
    result["stolen"] = (after[0] - before[0]) / max(1, after[1] - before[1])
    return result


def value(name, run):
    """The figure itself."""
    if name.endswith("-p50"):
        return run["latency_us"]["p50"] / 1000
    if name.endswith("-p99"):
        return run["latency_us"]["p99"] / 1000
    return run["per_second"]


def notes(name, runs):
    """What the figure is as a ratio to the machine, or beside it."""
    median = lambda number: statistics.median(number(run) for run in runs)
    told = []
    if name == "unary":
        told.append(f"{median(lambda run: run['wire']['ratios']['rate_to_echo']):.2f} × echo")
    if name == "decided-p50":
        told.append(f"{median(lambda run: run['wire']['ratios']['p50_to_fdatasync_200b']):.1f} × fdatasync")
    if name == "half-p99":
        told.append(f"p99.9 {median(lambda run: run['latency_us']['p999']) / 1000:.1f}")
    if name in ("half-p99", "bulk", "stream", "sustained"):
        told.append(f"longest stall {median(lambda run: run['stall_ms']):.0f} ms")
    told.append(f"stolen {100 * max(run['stolen'] for run in runs):.1f} %")
    return ", ".join(told)


def show(number):
    """As precise as it is true."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.2f}"


def table(chosen, runs):
    """All figures, with medians and ranges."""
    print("\n| figure | build | median | range | |\n|---|---|---|---|---|")
    medians = {}
    for name in chosen.only:
        for label, _ in chosen.escrow:
            of_build = runs[name, label]
            values = [value(name, run) for run in of_build]
            medians[name, label] = statistics.median(values)
            spread = f"{show(min(values))}-{show(max(values))}"
            print(f"| {name} | {label} | {show(medians[name, label])} | {spread} | {notes(name, of_build)} |")
    for label, _ in chosen.escrow:
        for name, base in (("one-shard", "bulk"), ("hot", "bulk"), ("accounts-10m", "accounts-10k")):
            if (name, label) in medians and (base, label) in medians:
                print(f"{label}: {name} is {medians[name, label] / medians[base, label]:.2f} × {base}")
    first = chosen.escrow[0][0]
    for label, _ in chosen.escrow[1:]:
        for name in chosen.only:
            print(f"{name}: {label} is {medians[name, label] / medians[name, first]:.2f} × {first}")


def main():
    """Measures round by round."""
    chosen = arguments()
    runs = {(name, label): [] for name in chosen.only for label, _ in chosen.escrow}
    # What is long, and what may be spoiled by what ran before, has a cluster of its own.
    together = [name for name in chosen.only if name in FIGURES]
    groups = ([together] if together else []) + [[name] for name in chosen.only if name in LONG]
    with open(chosen.json, "w", encoding="utf-8") if chosen.json else contextlib.nullcontext() as kept:
        for number in range(1, chosen.rounds + 1):
            for group in groups:
                for label, escrow in chosen.escrow:
                    with cluster(escrow) as (directory, endpoint):
                        for name in group:
                            run = measure(escrow, name, directory, endpoint, chosen)
                            runs[name, label].append(run)
                            figure = show(value(name, run))
                            print(f"round {number} of {chosen.rounds}: {label} {name} {figure}", file=sys.stderr, flush=True)
                            if kept:
                                kept.write(json.dumps({"round": number, "build": label, "figure": name, **run}) + "\n")
    table(chosen, runs)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
