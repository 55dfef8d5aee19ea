/**
 * In-flight tracking (vhost-user, section Inflight I/O tracking): memory that the front end keeps
 * when this process dies, and that tells our successor which requests were taken and not returned.
 *
 *   region:  | queue 0 | queue 1 | … |        each queue's part starts at a multiple of 64 bytes
 *
 * What the trackers decide on lives in private arrays; the shared memory is only written, except
 * at recovery, where everything read is checked: the front end may have changed it.
 */
import { VloError } from '../errors.js';
import { createMemfd, type Fd, Mapping, PAGE_SIZE } from '../native/index.js';
import { QUEUE_SIZE_MAX, type UnfinishedRequest } from '../virtio/index.js';

/** Version of the layouts; 0 means that nobody has used the memory yet. */
export const INFLIGHT_VERSION = 1;
/** Alignment of each queue's part. Other back ends use the same, so they can succeed each other. */
const PART_ALIGNMENT = 64;
/**
 * Least entries of each queue in memory of our making. QEMU asks for its configured queue size,
 * and yet a firmware (SeaBIOS) may set up a ring of more entries for the time of the boot.
 */
const ENTRY_COUNT_MIN = 1024;
const SPLIT_HEADER_SIZE = 16;
const SPLIT_ENTRY_SIZE = 16;
const PACKED_HEADER_SIZE = 32;
const PACKED_ENTRY_SIZE = 32;

/** Where the shared memory of INFLIGHT messages lies and how it is divided. */
export interface InflightDescription {
  /** Size of the memory in bytes. */
  readonly mmapSize: number;
  /** Offset of the memory in its file, in bytes. */
  readonly mmapOffset: number;
  readonly queueCount: number;
  readonly queueSize: number;
}

/** What a recovery found: where to go on, and what to serve again first. */
export interface Recovery {
  /** The base, in the format of `DeviceQueueOptions.base`. */
  readonly base: number;
  /** In the order in which the requests were taken. */
  readonly unfinished: readonly UnfinishedRequest[];
}

/** Size in bytes of one queue's part. */
export function inflightPartSize(queueSize: number, packed: boolean): number {
  const size = packed
    ? PACKED_HEADER_SIZE + PACKED_ENTRY_SIZE * queueSize
    : SPLIT_HEADER_SIZE + SPLIT_ENTRY_SIZE * queueSize;
  return Math.ceil(size / PART_ALIGNMENT) * PART_ALIGNMENT;
}

/** The mapped in-flight memory of a device. */
export class InflightRegion {
  readonly description: InflightDescription;
  private readonly mapping: Mapping;
  private readonly lead: number;

  private constructor(mapping: Mapping, lead: number, description: InflightDescription) {
    this.mapping = mapping;
    this.lead = lead;
    this.description = description;
  }

  /** Makes the memory for GET_INFLIGHT_FD, zeroed: version 0, not yet in use. */
  static create(
    queueCount: number,
    queueSize: number,
    packed: boolean,
  ): { fd: Fd; description: InflightDescription } {
    const entryCount = Math.max(queueSize, ENTRY_COUNT_MIN);
    const size = inflightPartSize(entryCount, packed) * queueCount;
    const mmapSize = Math.ceil(size / PAGE_SIZE) * PAGE_SIZE;
    const fd = createMemfd('vhost-inflight', mmapSize);
    return { fd, description: { mmapSize, mmapOffset: 0, queueCount, queueSize } };
  }

  /**
   * Maps the memory that SET_INFLIGHT_FD describes. The descriptor stays the caller's.
   * @throws VloError VLO_PROTOCOL when sizes, offset and file do not fit together.
   */
  static map(fd: Fd, description: InflightDescription): InflightRegion {
    const { mmapSize, mmapOffset, queueCount, queueSize } = description;
    const sizeMax = inflightPartSize(QUEUE_SIZE_MAX, true) * 256;
    const isSane = mmapSize > 0 && mmapSize <= sizeMax && Number.isSafeInteger(mmapOffset);
    if (!isSane || queueSize < 1 || queueSize > QUEUE_SIZE_MAX || queueCount < 1) {
      throw new VloError(
        'VLO_PROTOCOL',
        `in-flight memory of ${mmapSize} bytes for ${queueCount} queues of ${queueSize} entries`,
      );
    }
    if (mmapOffset % 8 !== 0) {
      throw new VloError('VLO_PROTOCOL', `in-flight memory at the odd offset ${mmapOffset}`);
    }
    const lead = mmapOffset % PAGE_SIZE;
    const mapping = Mapping.shared(fd.number, lead + mmapSize, { offset: mmapOffset - lead });
    return new InflightRegion(mapping, lead, description);
  }

  /** Entries of each queue: what was asked for, or more where the memory was made for more. */
  entryCount(packed: boolean): number {
    const { mmapSize, queueCount, queueSize } = this.description;
    const ours = Math.max(queueSize, ENTRY_COUNT_MIN);
    return inflightPartSize(ours, packed) * queueCount <= mmapSize ? ours : queueSize;
  }

  /**
   * The part of one queue; null for a queue that the front end does not track.
   * @throws VloError VLO_PROTOCOL when the memory is too small for the layout.
   */
  part(index: number, packed: boolean): Uint8Array | null {
    const { mmapSize, queueCount } = this.description;
    if (index >= queueCount) return null;
    const size = inflightPartSize(this.entryCount(packed), packed);
    if (size * (index + 1) > mmapSize) {
      throw new VloError(
        'VLO_PROTOCOL',
        `in-flight memory of ${mmapSize} bytes is too small for queue ${index}`,
      );
    }
    return this.mapping.bytes(this.lead + size * index, size);
  }

  /** Forgets all requests, as after a reset of the device. */
  clear(): void {
    this.mapping.bytes(this.lead, this.description.mmapSize).fill(0);
  }

  /** Lets the memory go. */
  retire(): void {
    this.mapping.retire();
  }
}

/**
 * Checks version and size of a part. False when it was never used.
 * @throws VloError VLO_PROTOCOL
 */
export function isInUse(part: Uint8Array, entryCount: number): boolean {
  const words = new Uint16Array(part.buffer, part.byteOffset, 8);
  const version = words[4]!;
  if (version === 0) return false;
  if (version !== INFLIGHT_VERSION) {
    throw new VloError('VLO_PROTOCOL', `in-flight memory of the unknown version ${version}`);
  }
  if (words[5] !== entryCount) {
    throw new VloError('VLO_PROTOCOL', `in-flight memory for ${words[5]} entries`);
  }
  return true;
}

/** The counter that keeps the order of requests: 64 bits as two halves. */
export class OrderCounter {
  low = 0;
  high = 0;

  next(): void {
    this.low = (this.low + 1) >>> 0;
    if (this.low === 0) this.high = (this.high + 1) >>> 0;
  }

  /** Goes on after the largest of the values seen. */
  passBeyond(low: number, high: number): void {
    if (high < this.high || (high === this.high && low < this.low)) return;
    this.low = low;
    this.high = high;
    this.next();
  }
}

/** A request found at recovery, with the counter it was taken under. */
export interface Found {
  readonly request: UnfinishedRequest;
  readonly low: number;
  readonly high: number;
}

/** The requests in the order in which they were taken. */
export function inOrder(found: Found[]): UnfinishedRequest[] {
  found.sort((a, b) => a.high - b.high || a.low - b.low);
  return found.map(({ request }) => request);
}
