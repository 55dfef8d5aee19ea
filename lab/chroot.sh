#!/usr/bin/env bash
# Runs a command in a part "build-VERSION" of the lab, with what it works on mounted. The mounts are
# in a namespace of their own and go with the command.
#
#   lab/chroot.sh TREE KERNEL MODULE COMMAND...
#     TREE    the part's tree
#     KERNEL  a part "kernel-ARCH-VERSION", whose headers appear in /usr; or any other folder, such
#             as a built kernel, which appears as /mnt/kernel
#     MODULE  a folder, which appears as /mnt/module; the command starts there
set -euo pipefail
if [[ ${VLO_LAB_NAMESPACE:-} != 1 ]]; then
  VLO_LAB_NAMESPACE=1 exec unshare --mount --propagation private bash "${BASH_SOURCE[0]}" "$@"
fi
tree=$1 kernel=$2 module=$3
shift 3
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount -t tmpfs tmpfs "$tree/tmp"
mount --bind "$module" "$tree/mnt/module"
if [[ -d $kernel/headers ]]; then
  mount --bind "$kernel/headers/usr/src" "$tree/usr/src"
  for folder in "$kernel"/headers/usr/lib/linux-kbuild-*; do
    mkdir -p "$tree/usr/lib/${folder##*/}"
    mount --bind "$folder" "$tree/usr/lib/${folder##*/}"
  done
else
  mount --bind "$kernel" "$tree/mnt/kernel"
fi
exec env -i PATH=/usr/sbin:/usr/bin HOME=/tmp LC_ALL=C \
  chroot "$tree" bash -c 'cd /mnt/module && exec "$@"' - "$@"
