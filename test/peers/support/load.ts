/** A load in a guest that knows at any time what every block of its disk has to hold. */

import { expect } from 'vitest';
import type { Guest } from './guest.ts';

/** Sizes in KiB. Each worker owns REGION of the disk, and writes it in pieces of PIECE. */
const REGION = 8192;
const PIECE = 512;
const PIECES = REGION / PIECE;

/**
 * The content of pass k of worker w: piece s is piece (s + 5k + 3w) mod PIECES of a random pattern,
 * so that neither an old nor a misplaced nor a missing write goes unseen. Odd workers write
 * directly, each block size in turn; even ones through the page cache with a sync at the end, which
 * puts many requests in flight.
 */
const LOAD = `
write_pass() { # worker pass file
  s=0; bs=$((4 << ($2 % 4)))
  while [ $s -lt ${PIECES} ]; do
    r=$(((s + 5 * $2 + 3 * $1) % ${PIECES})); n=$((${PIECE} / bs)); to=$((s + $4))
    dd if=/tmp/pattern of=$3 bs=\${bs}k count=$n skip=$((r * n)) \\
      seek=$((to * n)) conv=notrunc $5 2>/dev/null || return 1
    s=$((s + 1))
  done
}
worker() { # worker
  k=0; flag=; if [ $(($1 % 2)) = 1 ]; then flag=oflag=direct; fi
  while [ ! -e /tmp/stop ]; do
    if ! write_pass $1 $k /dev/vda $(($1 * ${PIECES})) $flag; then echo "worker $1 pass $k" >>/tmp/failed; fi
    if [ -z "$flag" ] && ! dd if=/dev/null of=/dev/vda bs=1k count=0 conv=notrunc,fsync 2>/dev/null; then
      echo "worker $1 sync $k" >>/tmp/failed
    fi
    # Renamed, so that whoever reads it never finds it empty.
    echo $k >/tmp/new.$1; mv /tmp/new.$1 /tmp/pass.$1; k=$((k + 1))
  done
}
check() { # worker: what the last whole pass wrote, against the disk
  write_pass $1 $(cat /tmp/pass.$1) /tmp/model 0
  dd if=/dev/vda bs=64k iflag=direct skip=$(($1 * ${REGION / 64})) count=${REGION / 64} \\
    2>/dev/null | cmp - /tmp/model || return 1
  sha256sum </tmp/model
}
`;

export interface Region {
  readonly offset: number;
  readonly length: number;
  readonly sha256: string;
}

export class Load {
  readonly #guest: Guest;
  readonly #workers: number;

  private constructor(guest: Guest, workers: number) {
    this.#guest = guest;
    this.#workers = workers;
  }

  /** Bytes of disk for so many workers. */
  static size(workers: number): number {
    return workers * REGION * 1024;
  }

  static async start(guest: Guest, workers: number): Promise<Load> {
    await guest.must(`${LOAD}\ndd if=/dev/urandom of=/tmp/pattern bs=1M count=${REGION / 1024}`);
    const all = Array.from({ length: workers }, (_, i) => i).join(' ');
    await guest.must(`rm -f /tmp/stop; for w in ${all}; do worker $w & done`);
    return new Load(guest, workers);
  }

  /** The same load as seen by the machine that it has moved to. */
  movedTo(guest: Guest): Load {
    return new Load(guest, this.#workers);
  }

  /** How many passes each worker has finished. */
  async passes(): Promise<number[]> {
    const all = Array.from({ length: this.#workers }, (_, i) => i).join(' ');
    const text = await this.#guest.must(
      `for w in ${all}; do cat /tmp/pass.$w 2>/dev/null || echo -1; done`,
      30_000,
    );
    // After a migration the serial port may first deliver what was on its way from the old guest.
    const counts = text.split('\n').slice(-this.#workers);
    expect(counts, `the workers' passes in:\n${text}`).toHaveLength(this.#workers);
    expect(counts.join(' ')).toMatch(/^(-?\d+ ?)+$/);
    return counts.map((n) => Number(n) + 1);
  }

  /**
   * Ends the load, compares the disk with what was written last, and gives the checksums of the
   * regions.
   */
  async finish(): Promise<Region[]> {
    await this.#guest.must('touch /tmp/stop; wait; sync', 120_000);
    await this.#guest.must('if [ -e /tmp/failed ]; then cat /tmp/failed; false; fi');
    const regions: Region[] = [];
    for (let w = 0; w < this.#workers; w++) {
      const said = await this.#guest.must(`check ${w}`, 60_000);
      const length = REGION * 1024;
      regions.push({ offset: w * length, length, sha256: said.split(' ')[0] });
    }
    return regions;
  }
}
