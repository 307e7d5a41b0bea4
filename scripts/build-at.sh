#!/bin/sh
# build-at.sh REV FOLDER: builds esker as it is at a commit, beneath FOLDER, unless it is there already; prints the path of
# the program on standard output.
set -eu

commit=$(git rev-parse --verify --short=12 "$1^{commit}")
program=$2/$commit/esker
if [ ! -x "$program" ]; then
    build=$2/$commit/build
    rm -rf "$build"
    mkdir -p "$build"
    git archive "$commit" | tar -x -C "$build"
    (cd "$build" && CARGO_TARGET_DIR="$build/target" "${CARGO:-cargo}" build --release --package cli) >&2
    mv "$build/target/release/esker" "$program"
    rm -rf "$build"
fi
echo "$program"
