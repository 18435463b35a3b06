#!/usr/bin/env bash
# Proves the README's promise: on a Debian 12 fresh from its installer, with rustup's toolchain and nothing else, a clean
# clone runs `cargo xtask demo` and `cargo xtask test` with exit code 0 and no other step.
#
# The machine is a debootstrap chroot below $1 (default /var/tmp/weft-fresh), removed at the end unless KEEP is set. Of
# this machine it sees the kernel's file systems, the toolchain and cargo's download cache, both read-only.
set -euo pipefail

source=$(cd "$(dirname "$0")/.." && pwd)
root=${1:-/var/tmp/weft-fresh}
toolchain=$(rustc --print sysroot)
cargo_home=${CARGO_HOME:-$HOME/.cargo}

if [ "$(id -u)" != 0 ]; then
	echo "fresh-machine: chroots and mounts need root" >&2
	exit 1
fi
for tool in debootstrap git rsync; do
	if ! command -v "$tool" >/dev/null; then
		apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap git rsync
		break
	fi
done

mounted=()
mount_at() { # kind-or-source, target, options...
	local target=$root$2
	mkdir -p "$target"
	case $1 in
	proc | sysfs | tmpfs) mount -t "$1" "${@:3}" "$1" "$target" ;;
	*) mount --rbind "$1" "$target" && mount --make-rslave "$target" && { [ "${3:-}" != ro ] || mount -o remount,bind,ro "$target"; } ;;
	esac
	mounted+=("$target")
}
clean_up() {
	local i
	for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do umount -R -l "${mounted[i]}"; done
	[ -n "${KEEP:-}" ] || rm -rf --one-file-system "$root"
}
trap clean_up EXIT

if [ ! -e "$root/etc/debian_version" ]; then
	echo "==> installing Debian 12 into $root"
	debootstrap --variant=minbase --include=ca-certificates bookworm "$root" >"$root.log" 2>&1 || {
		tail -20 "$root.log" >&2
		exit 1
	}
fi
# Packages come from where this machine gets them.
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
rm -rf "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d"
cp -a /etc/apt/sources.list.d "$root/etc/apt/"
cp -a /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
cp -a /etc/ssl/certs/. "$root/etc/ssl/certs/"
[ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/"
cp -a /usr/local/share/ca-certificates "$root/usr/local/share/" 2>/dev/null || true

# A machine's root is a mount point.
mount --bind "$root" "$root" && mount --make-private "$root"
mounted+=("$root")
mount_at proc /proc
mount_at /sys /sys
mount_at /dev /dev
mount_at tmpfs /run
mount_at tmpfs /tmp -o mode=1777
mount_at "$toolchain" /opt/rust ro
mkdir -p "$root/root/.cargo/registry" "$root/root/weft"
# Crates already downloaded are given along: this proves the steps, not the network.
[ ! -d "$cargo_home/registry" ] || rsync -a --delete "$cargo_home/registry/" "$root/root/.cargo/registry/"
[ ! -f "$cargo_home/config.toml" ] || cp "$cargo_home/config.toml" "$root/root/.cargo/"

echo "==> a clean clone"
rm -rf "$root/root/weft"
git clone -q --no-hardlinks "$source" "$root/root/weft"

inside() {
	chroot "$root" /usr/bin/env -i HOME=/root TERM="${TERM:-dumb}" \
		PATH=/opt/rust/bin:/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		RUSTC_WRAPPER= bash -c "cd /root/weft && $1"
}
for verb in ${VERBS:-demo test}; do
	echo "==> cargo xtask $verb"
	start=$SECONDS
	inside "cargo xtask $verb"
	echo "==> cargo xtask $verb: exit code 0 after $((SECONDS - start)) s"
done
