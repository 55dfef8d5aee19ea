#!/usr/bin/env bash
# Installs the programs of others that the peer tests run against, into one folder:
#   root/            a Debian trixie tree without maintainer scripts, used as a chroot: QEMU,
#                    qemu-img with libblkio, nbdkit, virtiofsd, passt, fio, zsh, fish, and the
#                    programs of ext4, btrfs and FUSE
#   root/opt/uml/    User-Mode Linux (sid) with its virtio modules
#   root/opt/guest/  a Debian kernel and an initramfs for QEMU guests
# The folder is $VLO_PEERS, else /var/cache/virtio-loopback/peers. Everything comes by package name
# through the package manager's own settings. Run it again at any time: it does nothing when all is
# there.
#
#   scripts/install-peers.sh          install what is missing (root, 1 to 2 minutes, 600 MB)
#   scripts/install-peers.sh --check  only say what is missing; status 0: nothing, 1: something
set -euo pipefail
# shellcheck disable=SC2016 # lines in single quotes are for mmdebstrap's shell

# Count up when the recipe changes: the stamp no longer fits then, and the folder is built anew.
RECIPE=6
PEERS=${VLO_PEERS:-/var/cache/virtio-loopback/peers}
HOST_PACKAGES=(mmdebstrap e2fsprogs util-linux kmod xz-utils cpio gzip)
HOST_COMMANDS=(mmdebstrap e2fsck debugfs unshare setpriv depmod modprobe xz cpio gzip)
PEER_PACKAGES=(
  qemu-utils qemu-block-extra qemu-system-common qemu-system-x86 seabios ipxe-qemu
  fio nbdkit libnbd-bin virtiofsd passt
  btrfs-progs fuse3 zsh fish
  bash coreutils diffutils e2fsprogs findutils gawk grep iproute2 kmod libc-bin mount procps sed
  util-linux busybox-static
)
PEER_FILES=(
  usr/bin/qemu-img usr/bin/qemu-io usr/bin/qemu-storage-daemon usr/bin/qemu-system-x86_64
  usr/bin/nbdkit usr/bin/nbdcopy usr/bin/nbdinfo usr/bin/fio usr/libexec/virtiofsd usr/bin/passt
  usr/sbin/mkfs.ext4 usr/sbin/e2fsck usr/sbin/losetup usr/bin/fusermount3
  usr/bin/btrfs usr/sbin/mkfs.btrfs usr/bin/zsh usr/bin/fish
  usr/bin/busybox opt/uml/linux opt/uml/modules/virtio_blk.ko opt/uml/init
  opt/guest/vmlinuz opt/guest/initramfs.gz
)
UML_MODULES=(virtio_blk virtio_console failover net_failover virtio_net virtio_scsi fuse virtiofs
  vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport)
GUEST_MODULES=(virtio_pci virtio_blk virtio_rng virtio_console virtio_net)

say() { printf 'install-peers: %s\n' "$*"; }
fail() {
  printf 'install-peers: %s\n' "$*" >&2
  exit 1
}

missing() {
  local command file
  for command in "${HOST_COMMANDS[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || echo "command $command"
  done
  if [[ $(cat "$PEERS/stamp" 2>/dev/null) != "$RECIPE" ]]; then
    echo "folder $PEERS, recipe $RECIPE"
    return
  fi
  for file in "${PEER_FILES[@]}"; do
    [[ -e $PEERS/root/$file ]] || echo "file $PEERS/root/$file"
  done
  if [[ ! -u $PEERS/root/usr/bin/fusermount3 ]]; then echo "setuid of $PEERS/root/usr/bin/fusermount3"; fi
}

# rm -rf follows bind mounts: never remove a tree that something is mounted in.
remove_tree() {
  [[ -e $1 ]] || return 0
  local real
  real=$(realpath "$1")
  if awk -v p="$real/" 'index($5 "/", p) == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo; then
    fail "something is mounted below $real; unmount it, then run this again"
  fi
  rm -rf --one-file-system "$real"
}

install_host_packages() {
  local command needed=
  for command in "${HOST_COMMANDS[@]}"; do
    command -v "$command" >/dev/null || needed=1
  done
  [[ -n $needed ]] || return 0
  say "host packages: ${HOST_PACKAGES[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null
  apt-get install -y -q --no-install-recommends "${HOST_PACKAGES[@]}" >/dev/null
}

# Debian tree SUITE into FOLDER, with a list of packages to include, and a shell line that runs
# inside FOLDER/opt/debs with apt set up for that suite (to download packages that are not to be
# extracted).
debian_tree() {
  local suite=$1 folder=$2 packages=$3 download=$4 log=$2.log
  if ! mmdebstrap --mode=root --variant=extract --quiet \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "5"' \
    --aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --include="$packages" \
    --extract-hook='mkdir -p "$1/opt/debs"; cd "$1/opt/debs"; export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG; '"$download" \
    "$suite" "$folder" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "mmdebstrap could not build the $suite tree; its last lines are above"
  fi
}

unpack() { dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2"; }

uml_files() { # SCRATCH: folder with the user-mode-linux package; fills NEW/root/opt/uml
  local from=$1 to=$2 module file
  mkdir -p "$to/modules"
  unpack "$(echo "$from"/opt/debs/user-mode-linux_*.deb)" "$from"
  cp "$from/usr/bin/linux.uml" "$to/linux"
  for module in "${UML_MODULES[@]}"; do
    file=$(find "$from/usr/lib/uml/modules" -name "$module.ko" -print -quit)
    if [[ -n $file ]]; then cp "$file" "$to/modules/"; fi
  done
  # The first program of the User-Mode Linux guest. Its root is this tree, read-only; /sock, the
  # folder of the test, is writable. Not for busybox's shell: it runs its applets from
  # /proc/self/exe, which before /proc is mounted is the host's, and that is the kernel itself: it
  # would boot inside itself.
  cat >"$to/init" <<'INIT'
#!/usr/bin/bash
export PATH=/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /mnt
mount -t hostfs -o hostfs=/sock none /sock
for m in $(sed -n 's/.*vlo\.modules=\([^ ]*\).*/\1/p' /proc/cmdline | busybox tr , ' '); do
  insmod /opt/uml/modules/$m.ko
done
cd /tmp
bash /sock/uml-script </dev/null
echo "@@STATUS $?"
busybox poweroff -f
INIT
  chmod 755 "$to/init"
}

guest_files() { # the kernel's package and busybox, to a kernel and an initramfs of 2 MB
  local root=$1 scratch=$2 to=$1/opt/guest version tree=$2/initramfs module file
  mkdir -p "$to" "$tree"/{bin,lib/modules,proc,sys,dev,tmp,mnt}
  unpack "$(echo "$root"/opt/debs/linux-image-*.deb)" "$scratch"
  version=$(basename "$scratch"/usr/lib/modules/*)
  cp "$scratch/boot/vmlinuz-$version" "$to/vmlinuz"
  cp "$root/usr/bin/busybox" "$tree/bin/busybox"
  ln -s busybox "$tree/bin/sh"
  ln -s usr/lib "$scratch/lib"
  depmod -b "$scratch" "$version"
  for module in "${GUEST_MODULES[@]}"; do
    modprobe -d "$scratch" -S "$version" --show-depends "$module"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
    module=$(basename "${file%.xz}")
    if [[ $file == *.xz ]]; then xz -dc "$file" >"$tree/lib/modules/$module"; else cp "$file" "$tree/lib/modules/"; fi
    echo "$module" >>"$tree/lib/modules/order"
  done
  # ttyS0 is the kernel's console (a log on the host); ttyS1 is a shell that the tests type into.
  cat >"$tree/init" <<'INIT'
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
while read -r m; do insmod "/lib/modules/$m"; done </lib/modules/order
stty -F /dev/ttyS1 raw -echo
cd /tmp
exec >/dev/ttyS1 2>&1
echo '@@READY'
# As a script: on its standard input, a terminal, the shell would prompt and echo.
sh /dev/ttyS1
poweroff -f
INIT
  chmod 755 "$tree/init"
  (cd "$tree" && find . | cpio --quiet -o -H newc --owner=0:0) | gzip -6 >"$to/initramfs.gz"
}

check_only() {
  local lacking
  lacking=$(missing)
  if [[ -z $lacking ]]; then
    say "all there: $PEERS"
    return 0
  fi
  while read -r line; do say "missing: $line"; done <<<"$lacking"
  say 'to install: sudo scripts/install-peers.sh'
  return 1
}

build() {
  local new=$PEERS.new started=$SECONDS
  say "building $PEERS (recipe $RECIPE)"
  remove_tree "$new"
  mkdir -p "$new"
  say 'Debian trixie tree: QEMU, libblkio, nbdkit, virtiofsd, passt, fio; and the guest kernel'
  debian_tree trixie "$new/root" "$(
    IFS=,
    echo "${PEER_PACKAGES[*]}"
  )" 'apt-get download $(apt-cache depends linux-image-amd64 | sed -n "s/.*Depends: *\(linux-image-[0-9].*\)/\1/p")'
  say 'User-Mode Linux from sid'
  debian_tree sid "$new/sid" base-files 'apt-get download user-mode-linux'
  uml_files "$new/sid" "$new/root/opt/uml"
  say 'kernel and initramfs for QEMU guests'
  guest_files "$new/root" "$new/kernel"
  # Extraction leaves no sh, no users and no mount points; and fusermount3 without setuid, which its
  # maintainer script sets. Whoever calls it needs a name, and it unmounts what is in mtab.
  ln -sf bash "$new/root/usr/bin/sh"
  printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n' >"$new/root/etc/passwd"
  printf 'root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n' >"$new/root/etc/group"
  chmod 4755 "$new/root/usr/bin/fusermount3"
  ln -sf ../proc/self/mounts "$new/root/etc/mtab"
  mkdir -p "$new/root"/{sock,mnt,sys}
  rm -rf "$new/root/opt/debs" "$new/sid" "$new/kernel" "$new"/*.log
  echo "$RECIPE" >"$new/stamp"
  remove_tree "$PEERS"
  mv "$new" "$PEERS"
  say "done in $((SECONDS - started)) s: $PEERS, $(du -sh "$PEERS" | cut -f1)"
}

case ${1:-} in
  --check) check_only; exit ;;
  '') ;;
  *) fail "unknown option $1; usage: scripts/install-peers.sh [--check]" ;;
esac
[[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || fail 'needs Debian or Ubuntu on x86-64'
if [[ -z $(missing) ]]; then
  say "all there: $PEERS"
  exit 0
fi
[[ $EUID == 0 ]] || fail 'needs root: sudo scripts/install-peers.sh'
export PATH=$PATH:/usr/sbin:/sbin
install_host_packages
mkdir -p "$(dirname "$PEERS")"
# Two runs at the same time would build into the same folder: the second waits and finds all there.
exec 9>"$PEERS.lock"
flock 9
if [[ -n $(missing) ]]; then build; fi
lacking=$(missing)
[[ -z $lacking ]] || fail "still missing after the build: $lacking"
