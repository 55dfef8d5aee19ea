/** A split ring in a device's memory, as one sees it who neither drives nor serves it. */
import { Mapping } from '../../native/index.js';
import type { RelayRegion } from '../../vhost-user/index.js';
import type { PortQueue } from '../kernel-port.js';

export const DESCRIPTOR_SIZE = 16;

/** The memory of a device, mapped here. */
export class DeviceMemory {
  private readonly parts: readonly { region: RelayRegion; mapping: Mapping }[];

  constructor(regions: readonly RelayRegion[]) {
    this.parts = regions.map((region) => {
      const { fd, size, mmapOffset: offset } = region;
      return { region, mapping: Mapping.shared(fd.number, size, { offset }) };
    });
  }

  /** `size` bytes at a device address; null where there is no memory. */
  bytes(address: number, size: number): Uint8Array | null {
    const part = this.parts.find(({ region: { guestAddress, size: all } }) => {
      return address >= guestAddress && address + size <= guestAddress + all;
    });
    return part?.mapping.bytes(address - part.region.guestAddress, size) ?? null;
  }

  close(): void {
    for (const { mapping } of this.parts) mapping.retire();
  }
}

/** The areas of a split ring (virtio 1.3, section 2.7). */
export class SplitRing {
  /** Number of entries, a power of two. */
  readonly size: number;
  readonly descriptors: DataView;
  private readonly available: Uint16Array;
  private readonly used: Uint16Array;

  constructor({ size, descriptor, driver, device }: PortQueue, memory: DeviceMemory) {
    this.size = size;
    const table = memory.bytes(descriptor, size * DESCRIPTOR_SIZE)!;
    this.descriptors = new DataView(table.buffer, table.byteOffset, table.byteLength);
    const available = memory.bytes(driver, 6 + 2 * size)!;
    this.available = new Uint16Array(available.buffer, available.byteOffset, 3 + size);
    const used = memory.bytes(device, 6 + 8 * size)!;
    this.used = new Uint16Array(used.buffer, used.byteOffset, 3 + 4 * size);
  }

  get availableIndex(): number {
    return Atomics.load(this.available, 1);
  }

  get usedIndex(): number {
    return Atomics.load(this.used, 1);
  }

  /** How many requests are out. */
  get outstandingCount(): number {
    const { usedIndex } = this;
    return (this.availableIndex - usedIndex) & 0xffff;
  }

  /** Head of the request at an index of the available ring; one of the last ones. */
  availableAt(index: number): number {
    return this.available[2 + (index & (this.size - 1))]!;
  }

  /** Head of the request at an index of the used ring; one of the last ones. */
  usedAt(index: number): number {
    return this.used[2 + 4 * (index & (this.size - 1))]!;
  }

  /** Gives a request back to the driver. @param length bytes that were written, below 64 KiB */
  giveBack(head: number, length: number): void {
    const { used, usedIndex, size } = this;
    const at = 2 + 4 * (usedIndex & (size - 1));
    used[at] = head;
    used[at + 1] = 0;
    used[at + 2] = length;
    used[at + 3] = 0;
    Atomics.store(used, 1, (usedIndex + 1) & 0xffff);
  }

  /** Asks the driver to tell of the request at an index, whichever way it was asked before. */
  askToTell(index: number): void {
    const { used, size } = this;
    used[0] = 0;
    // For EVENT_IDX; without it nobody looks there.
    Atomics.store(used, 2 + 4 * size, index);
  }
}
