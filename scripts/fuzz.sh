#!/bin/sh
# Runs every target for the given seconds, from the seeds and from what earlier runs found, which stays in the cache
# folder. Says how many inputs each saw, and adds a line to the record there: date, target, seconds, outcome.
set -eu
seconds=${1:-60}
if ! command -v cargo-fuzz > /dev/null || ! rustup toolchain list 2> /dev/null | grep -q nightly; then
    echo "fuzzing needs 'cargo install cargo-fuzz' and 'rustup toolchain install nightly'" >&2
    echo "without them: cargo test --release --package fuzzing" >&2
    exit 1
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/esker/fuzz
jobs=$(nproc)
cargo run --quiet --release --package fuzzing --bin corpus -- "$cache/corpus" > "$cache.targets"
cargo +nightly fuzz build --release
failed=0
while read -r target; do
    mkdir -p "$cache/artifacts/$target"
    began=$(date +%s) outcome=well
    if cargo +nightly fuzz run --release "$target" "$cache/corpus/$target" -- -max_total_time="$seconds" \
        -fork="$jobs" -rss_limit_mb=1024 -max_len=16384 -artifact_prefix="$cache/artifacts/$target/" \
        > "$cache/$target.log" 2>&1; then
        printf '%-10s %s\n' "$target" "$(grep -E '^#[0-9]+' "$cache/$target.log" | tail -1 | cut -d' ' -f1-7)"
    else
        failed=1 outcome=failed
        printf '%-10s FAILED, see %s\n' "$target" "$cache/$target.log"
    fi
    printf '%s\t%s\t%s\t%s\n' "$(date -u +%FT%TZ)" "$target" "$(($(date +%s) - began))" "$outcome" >> "$cache/record.tsv"
done < "$cache.targets"
awk -F '\t' '{ sum[$2] += $3 } END { for (target in sum) printf "%-10s %d s of all runs\n", target, sum[target] }' \
    "$cache/record.tsv" | sort
exit $failed
