/**
 * The memory of a VDUSE device, as regions that a back end can have. All of it lies in one file of
 * the kernel's, each byte at the offset that is its device address:
 *
 *   0 ── pool ── pool size ────────── rings, from the top downward ── 1.125 GiB
 *
 * The kernel lists the pool only once a buffer was mapped, and each ring by itself. A back end is
 * told of both parts as a whole from the start: it may take few regions, and learns of no change.
 * Pages appear when the driver uses them; nothing else is there to be reached.
 */
import type { Fd } from '../../native/index.js';
import type { RelayRegion } from '../../vhost-user/index.js';
import type { VduseMemory } from './device.js';

/** Regions begin and end at multiples of this: of the largest page size of our architectures. */
const UNIT = 65_536;

interface Range {
  readonly start: number;
  readonly end: number;
  readonly offset: number;
}

/** The ranges that a back end is told of. */
export function planRegions(found: readonly Range[], poolSize: number): Range[] {
  const isOwn = ({ start, offset }: Range): boolean => start === offset;
  const own = found.filter(isOwn);
  // Memory that a virtual machine has mapped (vhost-vdpa), each in a file of its own.
  const foreign = found.filter((range) => !isOwn(range));
  if (own.length === 0) return foreign;
  const pool = { start: 0, end: poolSize, offset: 0 };
  const rings = own.filter(({ start }) => start >= poolSize);
  if (rings.length === 0) return [pool, ...foreign];
  const start = Math.min(...rings.map((ring) => ring.start));
  const end = Math.max(...rings.map((ring) => ring.end));
  const first = start - (start % UNIT);
  const last = Math.ceil(end / UNIT) * UNIT;
  return [pool, { start: first, end: last, offset: first }, ...foreign];
}

/** The regions of a device. One that stays as it is stays the same object. */
export class MemoryTable {
  regions: readonly RelayRegion[] = [];
  private readonly poolSize: number;

  constructor(poolSize: number) {
    this.poolSize = poolSize;
  }

  /**
   * Follows the kernel's list; takes the descriptors over. Returns those that are not in use any
   * more, to be closed when no back end has them.
   */
  follow(found: readonly VduseMemory[]): Fd[] {
    const planned = planRegions(found, this.poolSize);
    const unused = new Set([...this.regions, ...found].map(({ fd }) => fd));
    this.regions = planned.map((range) => {
      const region = this.same(range) ?? make(range, found);
      unused.delete(region.fd);
      return region;
    });
    return [...unused];
  }

  private same({ start, end, offset }: Range): RelayRegion | undefined {
    return this.regions.find(
      ({ guestAddress, size, mmapOffset }) =>
        guestAddress === start && size === end - start && mmapOffset === offset,
    );
  }

  close(): void {
    for (const fd of new Set(this.regions.map((region) => region.fd))) fd.close();
    this.regions = [];
  }
}

function make({ start, end, offset }: Range, found: readonly VduseMemory[]): RelayRegion {
  const delta = start - offset;
  // Any descriptor of the kernel's own file does for all of it.
  const { fd } = found.find((memory) =>
    delta === 0 ? memory.start === memory.offset : memory.start === start,
  )!;
  return { fd, guestAddress: start, size: end - start, mmapOffset: offset };
}
