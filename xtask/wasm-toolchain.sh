#!/usr/bin/env bash
# Makes a private Rust toolchain that can compile for wasm32-unknown-unknown, for machines where
# `rustup target add wasm32-unknown-unknown` cannot download. Usage: wasm-toolchain.sh FOLDER
#
# Compiler and standard library source come from Debian's rustc-web packages (fetched and unpacked
# without root, nothing is installed), the linker from the rustup toolchain that is already here.
# Neither version is pinned: Debian removes a version when it ships the next one, so the names of
# the versioned packages are read from the packages that depend on them. Compiler and source come
# from one suite and therefore match.
set -euo pipefail
folder=$1
[ -x "$folder/bin/rustc" ] && [ -f "$folder/complete" ] && exit 0
for tool in apt-get dpkg dpkg-deb cargo rustc; do
  command -v "$tool" >/dev/null || { echo "wasm-toolchain.sh needs $tool" >&2; exit 1; }
done
rm -rf "$folder"
mkdir -p "$folder/packages"
folder=$(cd "$folder" && pwd)
cargo_home=${CARGO_HOME:-$HOME/.cargo}

cd "$folder/packages"
# Old package lists name versions that are gone, or hide the security suite, which has the newest.
apt-get update -q || echo "wasm-toolchain.sh: apt-get update failed; going on with the package lists that are here" >&2
apt-get download -q rustc-web libstd-rust-web-dev rust-web-src
std=$(dpkg-deb -f libstd-rust-web-dev_*.deb Depends | grep -oE 'libstd-rust-web-[0-9.]+' | head -1)
apt-get download -q "$std"
llvm=$(dpkg-deb -f "${std}"_*.deb Depends | grep -oE 'libllvm[0-9]+' | head -1)
apt-get download -q "$llvm"
for package in *.deb; do dpkg -x "$package" "$folder/root"; done
cd "$folder"
rm -rf packages

# Of the compiler's source only library/ is needed, at the place where cargo looks for it.
usr=$folder/root/usr
source_of_std=$usr/lib/rustlib/src/rust
library=$(readlink -f "$source_of_std")/library
mv "$library" "$folder/library"
rm -rf "$usr/src" "$usr/lib/rustlib/src"
mkdir -p "$source_of_std"
mv "$folder/library" "$source_of_std/library"

# rustc finds the linker by its bare name in its own folder of tools.
host=$(rustc -vV | sed -n 's/^host: //p')
tools=$(rustc --print sysroot)/lib/rustlib/$host/bin
mkdir -p "$usr/lib/rustlib/$host/bin"
for tool in rust-lld gcc-ld; do ln -sfn "$tools/$tool" "$usr/lib/rustlib/$host/bin/$tool"; done
mkdir -p bin
libraries=$(dirname "$(find "$usr/lib" -name 'libLLVM*.so*' | head -1)")
printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/bin/rustc "$@"\n' "$libraries" "$usr" > bin/rustc
chmod +x bin/rustc

# The standard library is compiled once and put into the sysroot; from then on the target is an
# ordinary installed one. Paths are remapped, since the allocator keeps its own in panic messages.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
echo '#![no_std]' > "$work/src/lib.rs"
cat > "$work/Cargo.toml" <<'TOML'
[package]
name = "standard-library-only"
version = "0.0.0"
edition = "2024"
[profile.release]
panic = "abort"
codegen-units = 1
[workspace]
TOML
cd "$work"
RUSTC_BOOTSTRAP=1 RUSTC="$folder/bin/rustc" CARGO_TARGET_DIR="$work/target" \
  CARGO_ENCODED_RUSTFLAGS=$'-Cembed-bitcode=yes\x1f'"--remap-path-prefix=$source_of_std=/rustc"$'\x1f'"--remap-path-prefix=$cargo_home=/cargo" \
  cargo build --quiet --release --target wasm32-unknown-unknown -Zbuild-std=std,panic_abort
installed=$usr/lib/rustlib/wasm32-unknown-unknown/lib
mkdir -p "$installed"
cp target/wasm32-unknown-unknown/release/deps/lib*.rlib "$installed/"
rm -f "$installed"/libstandard_library_only*
"$folder/bin/rustc" --version > "$folder/complete"
