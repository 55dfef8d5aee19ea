#!/usr/bin/env bash
# Builds what the lab needs, part by part, into one folder:
#   qemu                     Debian trixie tree with QEMU for the three architectures
#   root-ARCH                Debian sid tree without maintainer scripts: the guest's user land
#   kernel-ARCH-VERSION      kernel image, modules, headers, and an initramfs for the guest
#   build-TREE               Debian tree with compilers for all architectures of its suite's kernels
#   source                   sid's kernel source, for checkpatch, the debug kernel and drivers
#   source-NUMBER            the virtio drivers of another kernel's source
#   docs                     Debian sid tree with Python, and kernel-doc of the part "source"
# ARCH is x86-64, arm64 or riscv64. VERSION is newest (sid's kernel) or the number of a kernel in
# another suite (5.10, 6.1, 6.12, 7.2, 7.3); with "-rt" behind it, the real-time kernel. TREE is
# newest, 6.12 (also for the backports to trixie), 6.1 or 5.10. The folder is $VLO_LAB, else
# /var/cache/virtio-loopback/lab. Everything comes by package name through the package manager's own
# settings. A part that is there is left alone; to get a newer kernel, remove the folder of that
# part.
#
#   lab/setup.sh PART...            build what is missing of these (root); status 3: Debian does not
#                                   have one of them
#   lab/setup.sh --check PART...    only say what is missing; status 0: nothing, 1: something
#   lab/setup.sh --initramfs ARCH MODULES FILE [disks]
#                                   an initramfs for a kernel of one's own, whose modules lie in
#                                   MODULES/RELEASE; with "disks" for a guest whose root is on disks
# shellcheck disable=SC2016 # lines in single quotes are for mmdebstrap's shell
set -euo pipefail

# Count up when the recipe of a part changes: it is built anew then. The kernels' have
# initramfs-init in them; KIND-VERSION is for a change that means nothing to the other versions.
declare -A RECIPES=([kernel-5.10]=2 [qemu]=1 [root]=4 [kernel]=1 [build]=1 [source]=1 [docs]=1)
declare -A DEBIAN=([x86-64]=amd64 [arm64]=arm64 [riscv64]=riscv64)
declare -A SUITE=(
  [newest]=sid [5.10]=bullseye [6.1]=bookworm [6.12]=trixie [7.2]=trixie-backports
  [7.3]=trixie-backports
)
declare -A TREE_SUITE=([newest]=sid [5.10]=bullseye [6.1]=bookworm [6.12]=trixie)
LAB=${VLO_LAB:-/var/cache/virtio-loopback/lab}
HOST_PACKAGES=(mmdebstrap util-linux kmod xz-utils cpio gzip e2fsprogs)
HOST_COMMANDS=(mmdebstrap flock unshare depmod modprobe xz cpio gzip mke2fs debugfs)
QEMU_PACKAGES=(
  qemu-system-x86 qemu-system-arm qemu-system-misc opensbi seabios ipxe-qemu bash coreutils
)
ROOT_PACKAGES=(
  bash busybox-static coreutils diffutils findutils gawk grep gzip kmod mount procps sed tar
  util-linux e2fsprogs fio iproute2 libc-bin nodejs qemu-system-common qemu-utils strace xz-utils
  alsa-utils can-utils evtest gpiod
  curl dmsetup iperf3 passt qemu-block-extra rt-tests socat vhost-device-vsock virtiofsd
)
BUILD_PACKAGES=(
  bash coreutils diffutils findutils gawk grep gzip hostname kmod make perl sed tar util-linux
  xz-utils bc binutils cpio gcc gcc-aarch64-linux-gnu gcc-riscv64-linux-gnu libc6-dev
  libc6-dev-arm64-cross libc6-dev-riscv64-cross libelf1t64 libelf-dev libssl-dev flex bison pahole
  python3-minimal sparse git
)
# The older trees build only modules.
OLD_BUILD_PACKAGES=(
  bash coreutils diffutils findutils gawk grep gzip hostname kmod make perl sed tar util-linux
  xz-utils bc binutils gcc gcc-aarch64-linux-gnu libc6-dev libc6-dev-arm64-cross libelf1
  sparse
)
# What the initramfs loads before it can mount the root, as far as the kernel has it not built in.
INITRAMFS_MODULES=(virtio_pci 9pnet_virtio 9p overlay)
INITRAMFS_DISK_MODULES=(nvme ext4 overlay)
# Drivers of hardware that no guest has: a third of a kernel's modules.
UNUSED_MODULES=(gpu iio infiniband media net/ethernet net/wireless staging)

say() { printf 'lab setup: %s\n' "$*"; }
fail() {
  printf 'lab setup: %s\n' "$*" >&2
  exit 1
}
# Debian does not have what was asked for, or its mirror does not.
not_there() {
  printf 'lab setup: %s\n' "$*" >&2
  remove_tree "$LAB/$PART.new"
  exit 3
}

# Splits the name of a part, PART, into KIND, ARCH, VERSION and REALTIME ("rt-", as Debian's names
# have it).
read_part() {
  PART=$1 KIND=${1%%-*} ARCH='' VERSION='' REALTIME=''
  case $1 in
    qemu | source | docs) ;;
    root-*) ARCH=${1#root-} ;;
    build-*) VERSION=${1#build-} ;;
    source-*) VERSION=${1#source-} ;;
    kernel-*)
      [[ $1 =~ ^kernel-(x86-64|[^-]+)-([^-]+)(-rt)?$ ]] || fail "unknown part $1"
      ARCH=${BASH_REMATCH[1]} VERSION=${BASH_REMATCH[2]} REALTIME=${BASH_REMATCH[3]:+rt-}
      ;;
    *) fail "unknown part $1" ;;
  esac
  [[ -z $ARCH || -n ${DEBIAN[$ARCH]:-} ]] || fail "unknown architecture $ARCH"
  [[ -z $VERSION || -n ${SUITE[$VERSION]:-} ]] || fail "unknown kernel $VERSION"
  [[ $KIND != build || -n ${TREE_SUITE[$VERSION]:-} ]] || fail "unknown part $1"
}

# Of the part that read_part has read.
recipe() { echo "${RECIPES[$KIND-$VERSION]:-${RECIPES[$KIND]}}"; }
is_there() { [[ $(cat "$LAB/$1/stamp" 2>/dev/null) == "$(recipe)" ]]; }

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

missing_host_command() {
  local command
  for command in "${HOST_COMMANDS[@]}"; do
    command -v "$command" >/dev/null || return 0
  done
  return 1
}

install_host_packages() {
  missing_host_command || return 0
  say "host packages: ${HOST_PACKAGES[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null
  apt-get install -y -q --no-install-recommends "${HOST_PACKAGES[@]}" >/dev/null
}

join() {
  local IFS=,
  echo "$*"
}

# bootstrap VARIANT SUITE FOLDER ARGUMENTS...
bootstrap() {
  local variant=$1 suite=$2 folder=$3
  shift 3
  if debian_tree "$variant" "$suite" "$folder" "$@"; then return; fi
  # A mirror may have the suite, and only half of its updates.
  say "again, with nothing but $suite itself"
  remove_tree "$folder"
  if debian_tree "$variant" "$suite" "$folder" "$@" \
    --setup-hook='sed -i "/-updates\|-security/d" "$1/etc/apt/sources.list"'; then return; fi
  if grep -q 'Mirror sync in progress' "$folder.log"; then
    not_there "the mirror's list of the packages in $suite does not fit its signature (${ARCH:-all})"
  fi
  tail -n 20 "$folder.log" >&2
  fail "mmdebstrap could not build the $suite tree; its last lines are above"
}

debian_tree() {
  local variant=$1 suite=$2 folder=$3
  shift 3
  mmdebstrap --mode=root --variant="$variant" \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "5"' \
    --aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$@" "$suite" "$folder" >"$folder.log" 2>&1
}

# download SUITE ARCHITECTURES FOLDER SCRIPT: an empty tree with nothing but apt's lists; the script
# runs in FOLDER/debs and downloads packages that are not to be installed.
download() {
  bootstrap custom "$1" "$3/apt" --architectures="$2" --customize-hook='mkdir -p "$1/../debs"
    cd "$1/../debs"; export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG; '"$4"
  remove_tree "$3/apt"
}

unpack() { dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2"; }

qemu_part() { bootstrap extract trixie "$1/tree" --arch=amd64 --include="$(join "${QEMU_PACKAGES[@]}")"; }

root_part() {
  local tree=$1/tree
  bootstrap extract sid "$tree" --arch="${DEBIAN[$ARCH]}" --include="$(join "${ROOT_PACKAGES[@]}")"
  # Extraction leaves no sh, no users and no mount points.
  ln -sf bash "$tree/usr/bin/sh"
  printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n' \
    >"$tree/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
  printf '127.0.0.1 localhost lab\n' >"$tree/etc/hosts"
  ln -sf ../proc/self/mounts "$tree/etc/mtab"
  mkdir -p "$tree"/{dev,proc,sys,run,tmp,mnt,root,lab,usr/lib/modules}
  ln -sf gawk "$tree/usr/bin/awk"
}

build_part() {
  local suite=${TREE_SUITE[$VERSION]} packages=("${BUILD_PACKAGES[@]}")
  case $suite in
    sid) ;;
    trixie) packages=("${OLD_BUILD_PACKAGES[@]/%libelf1/libelf1t64}" gcc-riscv64-linux-gnu pahole) ;;
    *) packages=("${OLD_BUILD_PACKAGES[@]}") ;;
  esac
  # Old suites' packages still have files for /bin and /lib.
  bootstrap extract "$suite" "$1/tree" --include="$(join "${packages[@]}")" \
    --setup-hook='for d in bin sbin lib lib64; do
      mkdir -p "$1/usr/$d"; ln -sfn "usr/$d" "$1/$d"; done'
  ln -sf bash "$1/tree/usr/bin/sh"
  ln -sf gawk "$1/tree/usr/bin/awk"
  mkdir -p "$1/tree"/{proc,dev,tmp,mnt/{module,kernel}}
  if [[ $suite == sid ]]; then return; fi
  # Half of a compiler that builds nothing but modules.
  find "$1/tree/usr" '(' -name lto1 -o -name '*lto-dump*' -o -name 'lib*san.*' -o \
    -name 'libLLVM*' ')' -delete
  find "$1/tree/usr" -name cc1 -printf '/usr/%P\0' | xargs -0 chroot "$1/tree" strip
}

# What the lab reads of the source: all of it once, of other kernels only drivers.
source_part() {
  local suite=${SUITE[${VERSION:-newest}]} wanted=('*/drivers/*virtio*' '*/include/uapi/linux/virtio*')
  download "$suite" amd64 "$1" "N=$VERSION"'
    apt-get download ${N:+linux-source-$N} $([ -n "$N" ] || apt-cache depends linux-source |
      sed -n "s/.*Depends: *\(linux-source-[0-9.]*\).*/\1/p")'
  mkdir "$1/tree"
  unpack "$(echo "$1"/debs/linux-source-*.deb)" "$1/tree"
  mv "$1"/tree/usr/src/linux-source-*.tar.xz "$1/linux-source.tar.xz"
  remove_tree "$1/tree"
  mkdir "$1/tree"
  [[ -n $VERSION ]] || wanted+=('*/scripts' '*/Documentation/dev-tools')
  tar -x -C "$1/tree" --strip-components=1 -f "$1/linux-source.tar.xz" --wildcards "${wanted[@]}"
  [[ -z $VERSION ]] || rm "$1/linux-source.tar.xz"
}

# kernel-doc needs more of Python than the build tree has.
docs_part() {
  local archive=$LAB/source/linux-source.tar.xz
  [[ -e $archive ]] || fail "$PART needs source"
  bootstrap extract sid "$1/tree" --include=bash,coreutils,python3
  mkdir -p "$1/tree"/{proc,dev,tmp,mnt/{module,kernel}} "$1/kernel"
  tar -x -C "$1/kernel" --strip-components=1 -f "$archive" --wildcards \
    '*/tools/docs/kernel-doc' '*/tools/lib/python/*'
}

# Names the packages of a kernel in a suite, and downloads them: F is its flavour, A its
# architecture, and N the beginning of its version. The suite's newest kernel may have another
# number by now, and this one beside it.
KERNEL_DEBS='
  depends() { apt-cache depends "$1:$A" 2>/dev/null |
    sed -n "s/.* Depends: <*\($2\)\([:>].*\)*$/\1/p"; }
  V=$(depends linux-image-$F "linux-image-[0-9][^:>]*" | sed s/linux-image-//)
  case $V in
    "$N"*) ;;
    *) V=$(apt-cache search --names-only "^linux-image-$N[^-]*(-[0-9]+)?-$F\$" |
      sed "s/^linux-image-\([^ :]*\).*/\1/" | sort -V | tail -n 1) ;;
  esac
  if [ -z "$V" ]; then touch none; exit; fi
  apt-get download linux-image-$V:$A linux-headers-$V:$A \
    $(depends linux-image-$V "linux-[a-z]*-$V" | sed "s/$/:$A/") \
    $(depends linux-headers-$V "linux-headers-[^:>]*") \
    $(depends linux-headers-$V "linux-kbuild-[^:>]*" | sed "s/$/:amd64/")'

# The kernel's packages come all in one go, so that image, modules and headers fit together even
# when the suite moves on in the next minute.
kernel_part() {
  local new=$1 a=${DEBIAN[$ARCH]} suite=${SUITE[$VERSION]} deb release image number=''
  [[ $VERSION == newest ]] || number=$VERSION.
  download "$suite" "$(join amd64 "$a")" "$new" "A=$a F=$REALTIME$a N=$number$KERNEL_DEBS"
  if [[ -e $new/debs/none ]]; then
    not_there "$suite has no linux-image-$REALTIME$a${number:+ of Linux $VERSION}"
  fi
  mkdir -p "$new/tree" "$new/headers" "$new/lib"
  for deb in "$new"/debs/*.deb; do
    case ${deb##*/} in
      linux-headers-* | linux-kbuild-*) unpack "$deb" "$new/headers" ;;
      *) unpack "$deb" "$new/tree" ;;
    esac
  done
  if [[ -d $new/tree/usr/lib/modules ]]; then
    mv "$new/tree/usr/lib/modules" "$new/lib/"
  else
    mv "$new/tree/lib/modules" "$new/lib/"
  fi
  release=$(ls "$new/lib/modules")
  echo "$release" >"$new/release"
  for image in "$new"/tree/boot/vmlinu[xz]* "$new/lib/modules/$release"/vmlinu[xz]*; do
    if [[ -f $image ]]; then mv "$image" "$new/vmlinuz"; fi
  done
  [[ -e $new/vmlinuz ]] || fail "no kernel image in the packages of $release"
  rm -rf "$new/lib/modules/$release/"{build,source}
  rm -rf "${UNUSED_MODULES[@]/#/$new/lib/modules/$release/kernel/drivers/}"
  depmod -b "$new" "$release"
  initramfs "$ARCH" "$new/lib/modules" "$new/initramfs.gz"
  remove_tree "$new/tree"
}

# A kernel's first root: busybox and the modules that the real root needs, 2 to 3 MB.
initramfs() {
  local root=$LAB/root-$1/tree modules=$2 target=$3 scratch release module file
  local names=("${INITRAMFS_MODULES[@]}")
  if [[ ${4:-} == disks ]]; then names=("${INITRAMFS_DISK_MODULES[@]}"); fi
  release=$(ls "$modules")
  scratch=$(mktemp -d)
  mkdir -p "$scratch"/base/lib "$scratch"/tree/{bin,modules,proc,sys,dev,lower,upper,new}
  ln -s "$(realpath "$modules")" "$scratch/base/lib/modules"
  cp "$root/usr/bin/busybox" "$scratch/tree/bin/busybox"
  ln -s busybox "$scratch/tree/bin/sh"
  for module in "${names[@]}"; do
    modprobe -d "$scratch/base" -S "$release" --show-depends "$module"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$scratch/files"
  while read -r file; do
    module=$(basename "${file%.xz}")
    case $file in
      *.xz) xz -dc "$file" >"$scratch/tree/modules/$module" ;;
      *) cp "$file" "$scratch/tree/modules/" ;;
    esac
    echo "$module" >>"$scratch/tree/modules/order"
  done <"$scratch/files"
  install -m 755 "$(dirname "${BASH_SOURCE[0]}")/initramfs-init" "$scratch/tree/init"
  (cd "$scratch/tree" && find . | cpio --quiet -o -H newc --owner=0:0) | gzip -6 >"$target"
  rm -rf "$scratch"
}

build_one() {
  local part=$1 new=$LAB/$1.new started=$SECONDS
  read_part "$part"
  # Two runs at the same time would build into the same folder: the second waits and finds it there.
  exec 9>"$LAB/$part.lock"
  flock 9
  if is_there "$part"; then return; fi
  if [[ $KIND == kernel ]]; then [[ -e $LAB/root-$ARCH/stamp ]] || fail "$part needs root-$ARCH"; fi
  say "$part ..."
  remove_tree "$new"
  mkdir -p "$new"
  "${KIND}_part" "$new"
  rm -rf "$new/debs" "$new"/*.log
  recipe >"$new/stamp"
  remove_tree "$LAB/$part"
  mv "$new" "$LAB/$part"
  say "$part: $(du -sh "$LAB/$part" | cut -f1) in $((SECONDS - started)) s"
  exec 9>&-
}

check_only() {
  local part lacking=0
  for part; do
    read_part "$part"
    if is_there "$part"; then continue; fi
    say "missing: $part"
    lacking=1
  done
  return "$lacking"
}

export PATH=$PATH:/usr/sbin:/sbin
case ${1:-} in
  --check) check_only "${@:2}"; exit ;;
  --initramfs)
    [[ $# == 4 || ($# == 5 && $5 == disks) ]] ||
      fail 'usage: lab/setup.sh --initramfs ARCH MODULES FILE [disks]'
    initramfs "${@:2}"
    exit
    ;;
  '' | -*) fail 'usage: lab/setup.sh [--check] PART...; the parts are explained in lab/README.md' ;;
esac
if check_only "$@" >/dev/null; then exit 0; fi
[[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || fail 'needs Debian or Ubuntu on x86-64'
[[ $EUID == 0 ]] || fail 'needs root'
install_host_packages
mkdir -p "$LAB"
for part; do build_one "$part"; done
