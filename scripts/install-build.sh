#!/bin/sh
# Installs what the build needs, by apt, only what is missing: clang and libclang for RocksDB's
# bindings, a C++ compiler and make. rustup's toolchain is expected to be there.
set -eu
missing=
command -v clang >/dev/null || missing="$missing clang"
ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 || missing="$missing libclang-dev"
command -v g++ >/dev/null || missing="$missing g++"
command -v make >/dev/null || missing="$missing make"
command -v pkg-config >/dev/null || missing="$missing pkg-config"
"$(dirname "$0")/apt.sh" $missing
command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
