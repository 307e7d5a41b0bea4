#!/bin/bash
# quickstart.sh ESKER: the main job on local disk, with real data, compared with its source.
# Everything happens in a temporary folder; the Redis that it starts is stopped at the end.
set -euo pipefail
esker=$1
here=$(cd "$(dirname "$0")" && pwd)
command -v redis-server >/dev/null || sh "$here/apt.sh" redis-server

work=$(mktemp -d)
redis_pid=
cleanup() {
    [ -z "$redis_pid" ] || kill "$redis_pid" 2>/dev/null || true
    [ -z "${loaded_pid:-}" ] || kill "$loaded_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
export ESKER_REPOSITORY=$work/repository ESKER_PASSWORD=quickstart ESKER_CACHE_DIR=$work/cache

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null || echo $((20000 + RANDOM)); }
# redis NAME FOLDER PORT: starts a server and waits until it answers
redis() {
    mkdir -p "$1"
    redis-server --port "$2" --bind 127.0.0.1 --dir "$PWD/$1" --save "" --daemonize no \
        --repl-diskless-sync-delay 0 --enable-debug-command local >"$1/log" 2>&1 &
    server_pid=$!
    for _ in $(seq 100); do
        redis-cli -p "$2" ping 2>/dev/null | grep -q PONG && return
        sleep 0.1
    done
    echo "redis did not start; see its log:" && cat "$1/log" && exit 1
}

step "a tree, a stream and a live Redis with real data"
mkdir tree && cp -r "$here/.." tree/sources 2>/dev/null || true
rm -rf tree/sources/.git tree/sources/target
cp -r /usr/share/doc tree/doc 2>/dev/null || true
ln -s sources tree/link && truncate -s 20M tree/sparse && mkfifo tree/pipe
seq 1 6000000 | awk '{ printf "%d\tcustomer %06d\t%d.%02d\n", $1, ($1 * 7919) % 1000003, ($1 * 31) % 5000, $1 % 100 }' > dump.sql
port=$(free_port)
redis redis "$port" && redis_pid=$server_pid
redis-cli -p "$port" eval "for i = 1, 200000 do redis.call('set', 'user:' .. i, 'name ' .. i .. ' ' .. redis.sha1hex(i)) end for i = 1, 20000 do redis.call('hset', 'cart:' .. i, 'item', i, 'count', i % 7) redis.call('zadd', 'scores', i, 'u' .. i) end" 0 >/dev/null
echo "tree: $(find tree | wc -l) entries, $(du -sh tree | cut -f1); stream: $(du -h dump.sql | cut -f1); redis: $(redis-cli -p "$port" dbsize) keys"

step "esker init"
"$esker" init
for night in first second; do
    step "$night night: esker backup tree"
    "$esker" backup tree
    step "$night night: cat dump.sql | esker backup --stdin --stdin-filename dump.sql"
    cat dump.sql | "$esker" backup --stdin --stdin-filename dump.sql
    step "$night night: esker backup redis://127.0.0.1:$port"
    "$esker" backup "redis://127.0.0.1:$port"
    if [ $night = first ]; then
        echo "something new" > tree/new-file && rm -f tree/pipe && echo changed >> tree/sources/README.md
        sed -i '3000000s/customer/CUSTOMER/' dump.sql
        redis-cli -p "$port" set user:5 "another name" >/dev/null
    fi
done

step "esker snapshots"
"$esker" snapshots

step "restore all of it, and compare with the source"
"$esker" restore latest --path "$work/tree" --target restored
diff -r --no-dereference tree restored/tree
echo "tree: equal"
"$esker" dump latest dump.sql --path /dump.sql | cmp - dump.sql
echo "stream: equal"
rdb="redis/127.0.0.1:$port/dump.rdb"
"$esker" restore latest --path "/$rdb" --target restored
mkdir loaded && cp "restored/$rdb" loaded/dump.rdb
port2=$(free_port)
redis loaded "$port2" && loaded_pid=$server_pid
[ "$(redis-cli -p "$port" debug digest)" = "$(redis-cli -p "$port2" debug digest)" ]
echo "redis: equal ($(redis-cli -p "$port2" dbsize) keys)"

step "esker check --read-data"
"$esker" check --read-data
step "esker stats"
"$esker" stats

step "it works; what you would type next"
cat <<END
export ESKER_REPOSITORY=/path/to/repository ESKER_PASSWORD_FILE=/path/to/password
$esker init
$esker backup /home
END
