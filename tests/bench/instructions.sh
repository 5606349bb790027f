#!/usr/bin/env bash
# How many instructions each step of a transfer takes, counted under valgrind, against the table of docs/instructions.md.
set -euo pipefail

usage() {
    cat <<'HELP'
Usage: tests/bench/instructions.sh [--against REVISION] [--tolerance PERCENT] [--only TEXT] [--bless]

Builds escrow-instructions as it is released, counts the instructions of every operation (state machines, codecs, frames of the
journal) under valgrind's callgrind, and prints them beside the table of docs/instructions.md. Half a minute, once it is built.

  --against REVISION   compare with the table of a commit or branch, such as main; else with the table of this checkout
  --tolerance PERCENT  what an operation may grow by (3)
  --only TEXT          count only operations whose name contains TEXT
  --bless              write the table; commit it with the change that moved it
  --help               this

Exit code: 0 nothing grew beyond the tolerance, 1 something did, 2 it could not be counted.
Needs valgrind (3.19 or newer) and cargo; nothing else here needs valgrind.
HELP
}

die() {
    echo "$1" >&2
    exit 2
}

cd "$(dirname "$0")/../.."
against='' arguments=()
while (($#)); do
    case $1 in
    -h | --help) usage && exit ;;
    --against) against=${2:?"--against needs a revision"} && shift 2 ;;
    --tolerance | --only) arguments+=("$1" "${2:?"$1 needs a value"}") && shift 2 ;;
    --bless) arguments+=("$1") && shift ;;
    *) usage >&2 && die "unknown argument: $1" ;;
    esac
done

command -v cargo >/dev/null || die "cargo is missing: install Rust, see https://rustup.rs"
command -v valgrind >/dev/null ||
    die "valgrind is missing: apt install valgrind, dnf install valgrind or pacman -S valgrind"
[[ $(uname -s) == Linux ]] || die "the counts are of Linux: elsewhere copies and allocation are others"

if [[ -n $against ]]; then
    before=$(mktemp)
    trap 'rm -f "$before"' EXIT
    git show "$against:docs/instructions.md" >"$before" || die "$against has no docs/instructions.md"
    arguments+=(--against "$before")
fi

# Other flags of the compiler would be another program.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
cargo build --quiet --release --package escrow-instructions || die "it does not build"
"${CARGO_TARGET_DIR:-target}/release/escrow-instructions" "${arguments[@]}"
