#!/bin/bash
# A real file system that fills up: 24 MiB of memory in a mount namespace of its own. Needs the right to mount.
#   disk.sh ESKER
set -euo pipefail
esker=$1
if [ "${2:-}" != inside ]; then
    exec unshare -m "$0" "$esker" inside
fi
scratch=$(mktemp -d)
trap 'umount "$scratch/disk" || true; rm -rf "$scratch"' EXIT
mkdir "$scratch/disk"
mount -t tmpfs -o size=24m none "$scratch/disk"
export ESKER_REPOSITORY=$scratch/disk/repo ESKER_PASSWORD=x ESKER_CACHE_DIR=$scratch/cache
demand() { # CODE COMMAND...: the command, and the code that it must end with
    local code=0
    "${@:2}" > "$scratch/out" 2>&1 || code=$?
    if [ "$code" != "$1" ]; then
        echo "${*:2}: $code instead of $1" >&2
        cat "$scratch/out" >&2
        exit 1
    fi
}
backup() { "$esker" backup --stdin --stdin-filename "$1" --pack-size 4 < "$scratch/$1"; }
head -c 4000000 /dev/urandom > "$scratch/small"
head -c 60000000 /dev/urandom > "$scratch/large"
demand 0 "$esker" init
demand 0 backup small
used=$(du -s "$ESKER_REPOSITORY" | cut -f1)
for round in $(seq 20); do
    demand 27 backup large
    left=$(du -s "$ESKER_REPOSITORY" | cut -f1)
    if [ "$left" -gt $((used + 64)) ]; then
        echo "round $round leaves $left KiB where $used were" >&2
        exit 1
    fi
done
# Not a byte is left: reading goes on, writing says what is the matter and harms nothing.
cat /dev/zero > "$scratch/disk/filler" 2> /dev/null || true
demand 27 backup small
demand 27 "$esker" prune
demand 0 "$esker" check --read-data
"$esker" dump latest small | cmp - "$scratch/small"
rm "$scratch/disk/filler"
demand 0 "$esker" prune
demand 0 backup small
demand 0 "$esker" check --read-data
echo "a disk that filled up 22 times: nothing lost, nothing left behind"
