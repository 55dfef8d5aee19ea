/** Lines of a script that bring a HAL up and down among the peers; see support/fuse.ts. */

/** The command. */
export const VLO = '/run/node /run/project/dist/bin/vlo.js';

/** Brings /sock/hal.yaml up; then `vlo COMMAND` asks it, and $RUN is its run directory. */
export const UP = `
RUN=/sock/run
vlo() { ${VLO} "$@" --run-dir $RUN; }
serve ${VLO} up /sock/hal.yaml --run-dir $RUN 2>/sock/log
within 20 grep -q ': up: ' /sock/log || { cat /sock/log >&2; exit 1; }
disk=$RUN/disk0/disk
`;

/** Takes it down, and checks that nothing is left: no mount, no process, no socket. */
export const DOWN = `
vlo down
wait $SERVER
if grep fuse.vlo /proc/self/mounts; then exit 1; fi
if pgrep -af '^vlo: '; then exit 1; fi
[ "$(ls -A $RUN)" = lock ]
`;

/** fio with checksums on a file: writes, reads back and compares. */
export const FIO = `
verified() { # name file [option]...
  fio --name=$1 --filename=$2 --verify=crc32c --verify_fatal=1 "\${@:3}" >/sock/$1.fio ||
    { cat /sock/$1.fio >&2; return 1; }
}
`;
