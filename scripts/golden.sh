#!/bin/bash
# golden.sh ESKER FOLDER: makes a small repository with every kind of record, the sums of its files, and what the commands
# print that `listings` has.
set -euo pipefail
esker=$1 golden=$2
commands=$(sed -n 's/^\$ //p' "$golden/listings")
rm -rf "$golden" && mkdir -p "$golden"
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
printf 'golden\n' > "$golden/password"
export ESKER_REPOSITORY=$PWD/$golden/repo ESKER_PASSWORD_FILE=$PWD/$golden/password ESKER_CACHE_DIR=$work/cache
export ESKER_HOST=golden USER=golden TZ=UTC
"$esker" -q init --chunk-size 4k
mkdir -p "$work/tree/folder/inner" && cd "$work"
seq 1 3000 > tree/numbers
printf 'x' > tree/one && ln tree/one tree/folder/hard && ln -s ../numbers tree/folder/link
truncate -s 100000 tree/holes && printf 'data' | dd of=tree/holes bs=1 seek=50000 conv=notrunc status=none
: > tree/empty && mkfifo tree/pipe && chmod 4711 tree/one && printf 'old' > tree/folder/old
touch -d '1969-12-31 12:00:00.5' tree/folder/old
"$esker" -q backup tree --tag first
"$esker" -q key add --new-key-file "${ESKER_PASSWORD_FILE%/password}/key"
"$esker" -q key split 2/3 --output "${ESKER_PASSWORD_FILE%/password}/shares"
"$esker" -q key rotate
"$esker" -q key re-encrypt && "$esker" -q key retire 1
seq 1 2000 | "$esker" -q backup --stdin --stdin-filename streams/seq
# Changed in places: stored against the first version.
sed 's/77/seventy-seven/' tree/numbers > numbers && cat numbers > tree/numbers && rm numbers tree/folder/old
"$esker" -q key rotate
"$esker" -q backup tree --tag second
"$esker" stats | grep -q 'in [1-9][0-9]* chunks, stored in' # there are deltas in it
find ./tree -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum > "${ESKER_PASSWORD_FILE%/password}/sums"
while read -r command; do
    echo "\$ $command"
    # shellcheck disable=SC2086 # words of one command line
    "$esker" $command
done <<< "$commands" > "${ESKER_PASSWORD_FILE%/password}/listings"
