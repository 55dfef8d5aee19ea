/** A quick look at the speed of a disk: a few hundred milliseconds for each row, no benchmark. */
import { NativeBuffer } from '../native/index.js';

const MIB = 1024 * 1024;
const BLOCK = 4096;
const ROW_MS = 350;
const AREA_SIZE = 32 * MIB;

/** How a disk is read and written in turn. */
export interface SpeedTarget {
  write(offset: number, bytes: Uint8Array): unknown;
  read(offset: number, bytes: Uint8Array): unknown;
}

export interface SpeedRow {
  readonly name: string;
  readonly requests: number;
  readonly bytesPerSecond: number;
  /** Latency in milliseconds: half of the requests, and 99 of 100, took at most so long. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** One request after the other, for a while. */
async function row(
  name: string,
  size: number,
  place: (request: number) => unknown,
): Promise<SpeedRow> {
  const latencies: number[] = [];
  const startedAt = performance.now();
  let now = startedAt;
  while (now - startedAt < ROW_MS) {
    const before = now;
    await place(latencies.length);
    now = performance.now();
    latencies.push(now - before);
  }
  const sorted = latencies.toSorted((a, b) => a - b);
  const percentile = (share: number): number => sorted[Math.floor((sorted.length - 1) * share)]!;
  return {
    name,
    requests: latencies.length,
    bytesPerSecond: (latencies.length * size) / ((now - startedAt) / 1000),
    p50Ms: percentile(0.5),
    p99Ms: percentile(0.99),
  };
}

/** Overwrites the beginning of the disk. */
export async function lookAtSpeed(target: SpeedTarget): Promise<SpeedRow[]> {
  // O_DIRECT wants whole pages.
  const memory = new NativeBuffer(MIB);
  const large = memory.bytes.fill(0x5a);
  const small = large.subarray(0, BLOCK);
  const largeCount = AREA_SIZE / MIB;
  const smallCount = AREA_SIZE / BLOCK;
  // A step without a common divisor reaches all blocks, in an order that nobody reads ahead.
  const step = 7919;
  const rows = [
    await row('write 1 MiB, in order', MIB, (i) => target.write((i % largeCount) * MIB, large)),
    await row('read 1 MiB, in order', MIB, (i) => target.read((i % largeCount) * MIB, large)),
    await row('read 4 KiB, here and there', BLOCK, (i) =>
      target.read(((i * step) % smallCount) * BLOCK, small),
    ),
  ];
  memory.free();
  return rows;
}
