#!/bin/sh
# apt.sh PACKAGE...: installs Debian packages, as root or through sudo; nothing to do without any.
set -eu
[ $# -gt 0 ] || exit 0
echo "installing: $*"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends "$@" >/dev/null
