/** Shared memory with guards around it, and raw pens to write rings as no honest peer would. */
import { Mapping, PAGE_SIZE } from '../../src/native/index.js';
import {
  type Chain,
  type DeviceQueue,
  DriverFault,
  type FaultReason,
  layoutAreas,
  layoutQueue,
  MemoryMap,
  MemoryRegion,
  PackedDeviceQueue,
  type QueueLayout,
  type RingFeatures,
  SplitDeviceQueue,
} from '../../src/virtio/index.js';
import { check } from '../conformance/ring-pair.js';

export const GUEST = 0x7_0000_1000;
const CANARY = 0xa5;

export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;
export const AVAIL = 1 << 7;
export const USED = 1 << 15;

const RING_REASONS: readonly FaultReason[] = [
  'index-jump',
  'index-range',
  'chain-length',
  'address',
  'order',
  'size',
  'indirect',
];

export const PLAIN: RingFeatures = {
  packed: false,
  indirect: true,
  eventIndex: false,
  inOrder: false,
};

/** Counts look-ups: each descriptor costs at least one, so they bound the work. */
class CountingMap extends MemoryMap {
  finds = 0;

  override find(address: number): MemoryRegion | null {
    this.finds += 1;
    return super.find(address);
  }
}

/** A ring in guarded shared memory with a device on it, written by hand. */
export class RingMemory {
  readonly features: RingFeatures;
  readonly size: number;
  readonly layout: QueueLayout;
  readonly memory = new CountingMap();
  /** The shared memory: the ring, then data. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Guest address of the data after the ring, and its size. */
  readonly data: number;
  readonly dataSize: number;
  readonly mapping: Mapping;
  readonly queue: DeviceQueue;

  constructor(features: RingFeatures, size: number, dataSize = 16 * PAGE_SIZE) {
    this.features = features;
    this.size = size;
    this.layout = layoutQueue(size, features.packed);
    const ringSize = Math.ceil(this.layout.byteLength / PAGE_SIZE) * PAGE_SIZE;
    const sharedSize = ringSize + dataSize;
    this.mapping = Mapping.anonymous(sharedSize + 2 * PAGE_SIZE);
    this.mapping.bytes(0, PAGE_SIZE).fill(CANARY);
    this.mapping.bytes(PAGE_SIZE + sharedSize, PAGE_SIZE).fill(CANARY);
    this.memory.add(new MemoryRegion(this.mapping, PAGE_SIZE, GUEST, GUEST, sharedSize));
    this.bytes = this.mapping.bytes(PAGE_SIZE, sharedSize);
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, sharedSize);
    this.data = GUEST + ringSize;
    this.dataSize = dataSize;
    this.queue = this.createQueue();
  }

  createQueue(): DeviceQueue {
    const { features, size, memory, layout, bytes } = this;
    const Queue = features.packed ? PackedDeviceQueue : SplitDeviceQueue;
    const base = features.packed ? 0x80008000 : 0;
    const areas = layoutAreas(layout, bytes);
    return new Queue({ index: 0, size, features, memory, areas, base, callFd: -1 });
  }

  close(): void {
    this.checkGuards();
    this.mapping.retire();
  }

  checkGuards(): void {
    for (const at of [0, this.mapping.size - PAGE_SIZE]) {
      check(
        this.mapping.bytes(at, PAGE_SIZE).every((byte) => byte === CANARY),
        'a guard around the shared memory was written',
      );
    }
  }

  /** Writes a descriptor at an offset of the shared memory; `extra` is next (split) or id. */
  descriptorAt(
    offset: number,
    address: number | bigint,
    size: number,
    flags: number,
    extra = 0,
  ): void {
    this.view.setBigUint64(offset, BigInt.asUintN(64, BigInt(address)), true);
    this.view.setUint32(offset + 8, size, true);
    const [flagsAt, extraAt] = this.features.packed ? [14, 12] : [12, 14];
    this.view.setUint16(offset + flagsAt, flags, true);
    this.view.setUint16(offset + extraAt, extra, true);
  }

  /** Writes a descriptor of the ring; in a packed ring of the first lap it is made available. */
  descriptor(index: number, address: number | bigint, size: number, flags = 0, extra = 0): void {
    const bits = this.features.packed ? flags | AVAIL : flags;
    this.descriptorAt(this.layout.descriptor + index * 16, address, size, bits, extra);
  }

  /** Writes heads into the available ring (split) and sets the index behind them. */
  offer(...heads: number[]): void {
    if (this.features.packed) return;
    for (const [i, head] of heads.entries()) {
      this.view.setUint16(this.layout.driver + 4 + (i % this.size) * 2, head, true);
    }
    this.setAvailIndex(heads.length);
  }

  setAvailIndex(index: number): void {
    this.view.setUint16(this.layout.driver + 2, index, true);
  }

  /** Pops and checks that a chain, if one comes, lies in the shared memory and can be used. */
  pop(): Chain | FaultReason | null {
    this.memory.finds = 0;
    let chain: Chain | null;
    try {
      chain = this.queue.pop();
    } catch (fault) {
      check(fault instanceof DriverFault, `no DriverFault but ${fault}`);
      check(RING_REASONS.includes(fault.reason), `reason ${fault.reason}`);
      this.checkWork();
      return fault.reason;
    }
    this.checkWork();
    if (chain !== null) this.checkChain(chain);
    return chain;
  }

  private checkWork(): void {
    // Descriptors in the ring, those of one table, the table itself, and cuts between regions.
    const limit = this.size + Math.max(this.size, 1024) + 1;
    check(this.memory.finds <= limit, `${this.memory.finds} look-ups for one request`);
  }

  checkChain(chain: Chain): void {
    const { segments } = chain;
    const sharedSize = this.bytes.length;
    let total = 0;
    for (let i = 0; i < segments.count; i += 1) {
      const offset = segments.guestAddresses[i]! - GUEST;
      const size = segments.sizes[i]!;
      check(size > 0 && offset >= 0 && offset + size <= sharedSize, 'a segment is not shared');
      const address = this.mapping.address + PAGE_SIZE + offset;
      check(segments.addresses[i] === address, 'a segment has a wrong address');
      check(segments.starts[i]! + size <= segments.views[i]!.length, 'a view is too small');
      total += size;
    }
    check(chain.reader.remaining + chain.writer.remaining <= total, 'a cursor is too long');
  }

  /** Uses a chain as a device would, and completes it. */
  serve(chain: Chain): void {
    const { reader, writer } = chain;
    const scratch = new Uint8Array(4096);
    while (reader.read(scratch) > 0);
    if (writer.remaining > 1) {
      const tail = writer.splitTail(1);
      writer.write(scratch.fill(0x5a));
      tail.writeU8(1);
    }
    this.queue.complete(chain);
    this.queue.publish();
  }
}
