#!/usr/bin/env bash
# Builds a kernel that watches itself for the lab's x86-64 guest, from Debian's linux-source and with
# the few drivers that the lab needs:
#   debug         KASAN, lockdep, kmemleak and more; see debug-kernel.config
#   debug-kcsan   KCSAN instead; see debug-kernel-kcsan.config for what differs
# It becomes a folder of that name in the lab ($VLO_LAB, else /var/cache/virtio-loopback/lab):
#   bzImage, modules/RELEASE, initramfs.gz     for the guest
#   build                                      what a module out of the tree is built with
# Run it again at any time: it does nothing when the configuration is the same. For a newer kernel,
# remove the folder "source" and its own.
#
#   lab/debug-kernel.sh [--check] [debug | debug-kcsan]
#     builds it if it is missing (root; 10 to 30 minutes); --check: only says whether it is missing;
#     status 0: no, 1: yes
set -euo pipefail

# Count up when this recipe changes: the kernel is built anew then.
RECIPE=1
LAB=${VLO_LAB:-/var/cache/virtio-loopback/lab}
HERE=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# What is left of the source after the build, for modules: headers, scripts, and objtool.
KEPT=(Makefile Kbuild Kconfig .config Module.symvers System.map vmlinux include arch scripts tools)

say() { printf 'debug-kernel: %s\n' "$*"; }
fail() {
  printf 'debug-kernel: %s\n' "$*" >&2
  exit 1
}

configuration() {
  cat "$HERE/debug-kernel.config"
  if [[ $NAME == debug-kcsan ]]; then cat "$HERE/debug-kernel-kcsan.config"; fi
}
wanted_stamp() { (echo "$RECIPE" && configuration) | sha256sum | cut -c1-8; }
is_there() { [[ $(cat "$TARGET/stamp" 2>/dev/null) == "$(wanted_stamp)" ]]; }

# rm -rf follows bind mounts: never remove a tree that something is mounted in.
remove_tree() {
  [[ -e $1 ]] || return 0
  local real
  real=$(realpath "$1")
  if awk -v p="$real/" 'index($5 "/", p) == 1 { found = 1 } END { exit !found }' \
    /proc/self/mountinfo; then
    fail "something is mounted below $real; unmount it, then run this again"
  fi
  rm -rf --one-file-system "$real"
}

# In the build tree, with the source as /mnt/kernel and NEW as /mnt/module; the output goes to LOG.
kernel_make() {
  if ! nice -n 19 "$HERE/chroot.sh" "$LAB/build-newest/tree" "$NEW/build" "$NEW" \
    make -C /mnt/kernel ARCH=x86 CROSS_COMPILE=x86_64-linux-gnu- \
    KBUILD_BUILD_USER=lab KBUILD_BUILD_HOST=lab "$@" >>"$LOG" 2>&1; then
    tail -n 20 "$LOG" >&2
    fail "make ${*: -1} failed; its last lines are above, all of them in $LOG"
  fi
}

# The configuration without what a later line replaces.
last_of_each() {
  configuration | awk -F= '/^CONFIG_/ { if (!($1 in line)) order[++count] = $1; line[$1] = $0 }
    END { for (i = 1; i <= count; i++) print line[order[i]] }'
}

# The kernel drops without a word what depends on something that is off, or what it does not know.
check_config() {
  local line name refused=()
  while read -r line; do
    [[ $line == CONFIG_* ]] || continue
    name=${line%%=*}
    case $line in
      *=n) if grep -q "^$name=" "$NEW/build/.config"; then refused+=("$line"); fi ;;
      *) if ! grep -qxF "$line" "$NEW/build/.config"; then refused+=("$line"); fi ;;
    esac
  done <"$NEW/config"
  [[ ${#refused[@]} == 0 ]] || fail "the kernel did not take ${refused[*]}"
}

install_modules() {
  local release
  kernel_make INSTALL_MOD_PATH=/mnt/module/install INSTALL_MOD_STRIP=1 modules_install
  mkdir "$NEW/modules"
  mv "$NEW"/install/lib/modules/* "$NEW/modules/"
  release=$(ls "$NEW/modules")
  rm -f "$NEW/modules/$release/"{build,source}
  rm -rf "$NEW/install"
}

# The source without what only the kernel itself is built from.
shrink_build() {
  local whole=$NEW/whole path
  mv "$NEW/build" "$whole"
  mkdir "$NEW/build"
  for path in "${KEPT[@]}"; do mv "$whole/$path" "$NEW/build/"; done
  remove_tree "$whole"
  find "$NEW/build/arch" -mindepth 1 -maxdepth 1 ! -name x86 ! -name Kconfig -exec rm -rf {} +
  find "$NEW/build/tools" -mindepth 1 -maxdepth 1 ! -name objtool -exec rm -rf {} +
  find "$NEW/build/arch" "$NEW/build/tools" -type f \
    '(' -name '*.[coaS]' -o -name '*.cmd' -o -name 'vmlinux*' -o -name bzImage ')' -delete
}

initramfs() {
  VLO_LAB=$LAB "$HERE/setup.sh" --initramfs x86-64 "$1/modules" "$1/initramfs.gz.new"
  mv "$1/initramfs.gz.new" "$1/initramfs.gz"
}

build() {
  local started=$SECONDS
  say 'building; this takes a while'
  VLO_LAB=$LAB "$HERE/setup.sh" root-x86-64 build-newest source
  remove_tree "$NEW"
  mkdir -p "$NEW/build"
  : >"$LOG"
  # Half of the source is large drivers that are off.
  tar -x -C "$NEW/build" --strip-components=1 -f "$LAB/source/linux-source.tar.xz" \
    --exclude='*/drivers/gpu/drm/*.[ch]' --exclude='*/drivers/media/*.[ch]' \
    --exclude='*/drivers/net/*/*.[ch]' --exclude='*/sound/*.[ch]'
  # The kernel adds this to its release: a module of another build must not fit.
  echo "-lab-${NAME#debug-}-$(wanted_stamp)" >"$NEW/build/localversion-lab"
  last_of_each >"$NEW/config"
  kernel_make KCONFIG_ALLCONFIG=/mnt/module/config allnoconfig
  check_config
  kernel_make "-j$(nproc)" bzImage modules
  mv "$NEW/build/arch/x86/boot/bzImage" "$NEW/bzImage"
  install_modules
  shrink_build
  initramfs "$NEW"
  rm "$NEW/config"
  wanted_stamp >"$NEW/stamp"
  remove_tree "$TARGET"
  mv "$NEW" "$TARGET"
  rm -f "$LOG"
  say "$(ls "$TARGET/modules"): $(du -sh "$TARGET" | cut -f1) in $((SECONDS - started)) s"
}

export PATH=$PATH:/usr/sbin:/sbin
IS_CHECK=
if [[ ${1:-} == --check ]]; then
  IS_CHECK=1
  shift
fi
NAME=${1:-debug}
[[ $# -le 1 && $NAME =~ ^debug(-kcsan)?$ ]] ||
  fail 'usage: lab/debug-kernel.sh [--check] [debug | debug-kcsan]'
TARGET=$LAB/$NAME
NEW=$TARGET.new
LOG=$TARGET.log
if [[ -n $IS_CHECK ]]; then
  if is_there; then exit 0; fi
  say "missing: $TARGET"
  exit 1
fi
[[ $EUID == 0 ]] || fail 'needs root'
mkdir -p "$LAB"
# Two runs at the same time would build into the same folder: the second waits and finds it there.
exec 9>"$TARGET.lock"
flock 9
if ! is_there; then build; fi
for source in "$HERE/setup.sh" "$HERE/initramfs-init"; do
  if [[ $source -nt $TARGET/initramfs.gz ]]; then initramfs "$TARGET"; fi
done
