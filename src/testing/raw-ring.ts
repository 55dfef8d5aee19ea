/** Writes descriptors into a ring past all checks, as a faulty or hostile driver would. */
import { VloError } from '../errors.js';
import { DESC_INDIRECT, DESC_NEXT, DESC_WRITE } from '../virtio/chain.js';
import type { RingAreas } from '../virtio/index.js';

/** A descriptor as it is written, whether it makes sense or not. */
export interface RawDescriptor {
  /** Address as the driver names it, below 2^53. */
  readonly address: number;
  readonly size: number;
  /** The device may write the range; default false. */
  readonly isWritable?: boolean;
  /** The range is an indirect table; default false. */
  readonly isIndirect?: boolean;
  /**
   * Index of the next descriptor (a packed ring only looks at whether there is one), or null for
   * none. Default: the one after it, and none for the last.
   */
  readonly next?: number | null;
}

/** What else may be wrong with a split ring's available entry. */
export interface RawOptions {
  /** Index of the head that is made available; default 0. */
  readonly head?: number;
  /** How far the available index moves on; default 1. */
  readonly availableCount?: number;
}

/** Kinds of malformed chains, named as the reasons of `DriverFault`. */
export type MalformedKind =
  | 'address'
  | 'order'
  | 'chain-length'
  | 'indirect'
  | 'index-range'
  | 'index-jump';

const ANY_LAYOUT: readonly MalformedKind[] = ['address', 'order', 'chain-length', 'indirect'];
const SPLIT_ONLY: readonly MalformedKind[] = ['index-range', 'index-jump'];

/** The kinds of malformed chains that a ring layout can have. */
export function malformedKinds(packed: boolean): readonly MalformedKind[] {
  return packed ? ANY_LAYOUT : [...ANY_LAYOUT, ...SPLIT_ONLY];
}

/** @internal The descriptors of a malformed chain; `address` is that of 32 valid bytes. */
export function malformedChain(
  kind: MalformedKind,
  packed: boolean,
  size: number,
  address: number,
): { descriptors: RawDescriptor[]; options: RawOptions } {
  if (!malformedKinds(packed).includes(kind)) {
    throw new VloError('VLO_REQUEST_INVALID', `a packed ring has nothing like '${kind}'`);
  }
  const good: RawDescriptor = { address, size: 16 };
  switch (kind) {
    case 'address':
      return { descriptors: [{ address: 2 ** 45, size: 16 }], options: {} };
    case 'order':
      return { descriptors: [{ ...good, isWritable: true }, good], options: {} };
    case 'indirect':
      return { descriptors: [{ ...good, size: 15, isIndirect: true }], options: {} };
    case 'index-range':
      return { descriptors: [good], options: { head: size } };
    case 'index-jump':
      return { descriptors: [good], options: { availableCount: size + 1 } };
    case 'chain-length': {
      // Split: a descriptor that links to itself. Packed: a chain without an end.
      const count = packed ? size : 1;
      return {
        descriptors: Array.from({ length: count }, () => ({ ...good, next: 0 })),
        options: {},
      };
    }
  }
}

function flagsOf(descriptor: RawDescriptor, isLast: boolean): number {
  const hasNext = descriptor.next === undefined ? !isLast : descriptor.next !== null;
  return (
    (hasNext ? DESC_NEXT : 0) |
    (descriptor.isWritable === true ? DESC_WRITE : 0) |
    (descriptor.isIndirect === true ? DESC_INDIRECT : 0)
  );
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function writeRange(view: DataView, at: number, { address, size }: RawDescriptor): void {
  view.setUint32(at, address >>> 0, true);
  view.setUint32(at + 4, address / 4294967296, true);
  view.setUint32(at + 8, size, true);
}

/** @internal Writes descriptors from the table's start on and makes them available. */
export function writeSplit(
  areas: RingAreas,
  size: number,
  descriptors: readonly RawDescriptor[],
  { head = 0, availableCount = 1 }: RawOptions,
): void {
  const table = viewOf(areas.descriptor);
  for (const [index, descriptor] of descriptors.entries()) {
    const at = index * 16;
    writeRange(table, at, descriptor);
    table.setUint16(at + 12, flagsOf(descriptor, index === descriptors.length - 1), true);
    table.setUint16(at + 14, descriptor.next ?? index + 1, true);
  }
  const available = viewOf(areas.driver);
  const index = available.getUint16(2, true);
  available.setUint16(4 + 2 * (index & (size - 1)), head, true);
  available.setUint16(2, index + availableCount, true);
}

const FLAG_AVAIL = 1 << 7;
const FLAG_USED = 1 << 15;

/** @internal Writes descriptors at the next position of a packed ring, the first one last. */
export function writePacked(
  areas: RingAreas,
  size: number,
  descriptors: readonly RawDescriptor[],
  position: number,
): void {
  const ring = viewOf(areas.descriptor);
  const start = position & 0x7fff;
  const wrap = (position & 0x8000) !== 0;
  for (let i = descriptors.length - 1; i >= 0; i -= 1) {
    const isWrapped = start + i >= size ? !wrap : wrap;
    const at = ((start + i) % size) * 16;
    writeRange(ring, at, descriptors[i]!);
    ring.setUint16(at + 12, 0, true);
    const flags = flagsOf(descriptors[i]!, i === descriptors.length - 1);
    ring.setUint16(at + 14, flags | (isWrapped ? FLAG_AVAIL : FLAG_USED), true);
  }
}
