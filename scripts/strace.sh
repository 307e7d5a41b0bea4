#!/bin/bash
# The real command on a real file system whose calls fail or are the last: for each call that makes something last, for
# its every occurrence, once with an error and once with SIGKILL. Afterwards what was acknowledged restores, check is
# content, and the command, run again, does its work. Needs strace and the right to trace.
#   strace.sh ESKER [STEP]      every STEPth occurrence only
set -euo pipefail
esker=$1 step=${2:-1}
command -v strace > /dev/null || { echo "this needs strace: apt-get install strace" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export ESKER_PASSWORD=x
head -c 3000000 /dev/urandom > "$scratch/one"
{ head -c 2000000 "$scratch/one"; head -c 2000000 /dev/urandom; } > "$scratch/two"
use() { export ESKER_REPOSITORY=$scratch/$1/repo ESKER_CACHE_DIR=$scratch/$1/cache; }
backup() { "$@" "$esker" --quiet backup --stdin --stdin-filename two --pack-size 1 < "$scratch/two"; }
prune() { "$@" "$esker" --quiet forget --keep-last 1 --group-by '' --prune; }
use base
"$esker" --quiet init
"$esker" --quiet backup --stdin --stdin-filename one --pack-size 1 < "$scratch/one"
# check WORK CODE WHAT: what is there after WORK ended with CODE
check() {
    "$esker" --quiet check --read-data > "$scratch/log" 2>&1 || { echo "$3: check" >&2; cat "$scratch/log" >&2; exit 1; }
    if [ "$2" = 0 ] || [ "$1" = again ]; then
        "$esker" dump latest two 2> "$scratch/log" | cmp - "$scratch/two" || { echo "$3: $1 lost" >&2; cat "$scratch/log" >&2; exit 1; }
    elif [ "$1" = backup ]; then
        "$esker" dump latest --path /one one 2> "$scratch/log" | cmp - "$scratch/one" || { echo "$3: older one lost" >&2; exit 1; }
    fi
}
runs=0 died=0
for work in backup prune; do
    if [ "$work" = prune ]; then backup; fi
    for call in fsync fdatasync renameat2 rename write unlink mkdir; do
        for how in error=EIO error=ENOSPC signal=KILL; do
            n=1
            while :; do
                rm -rf "$scratch/try" && cp -r "$scratch/base" "$scratch/try"
                use try
                code=0
                # strace counts the calls of each thread for itself.
                $work strace -f -qq -o "$scratch/trace" -e trace="$call" -e inject="$call:$how:when=$n" \
                    > "$scratch/out" 2>&1 || code=$?
                if ! grep -qE 'INJECTED|killed by SIGKILL' "$scratch/trace"; then break; fi
                if grep -q panicked "$scratch/out"; then echo "$work $call $how $n: panic" >&2; cat "$scratch/out" >&2; exit 1; fi
                [ "$code" = 0 ] || died=$((died + 1))
                check "$work" "$code" "$work $call $how $n"
                $work > "$scratch/out" 2>&1 || { echo "$work $call $how $n: again" >&2; cat "$scratch/out" >&2; exit 1; }
                check again 0 "$work $call $how $n"
                runs=$((runs + 1)) n=$((n + step))
            done
        done
    done
    use base
done
echo "$runs runs with a call that failed or was the last, of which $died did not end well: nothing lost"
