/**
 * Where a back end goes on in a ring whose last one died: what SET_VRING_BASE says then. Read from
 * what the two left behind, the ring and the in-flight memory; the relay has neither mapped.
 */
import { assert, VloError } from '../errors.js';
import { Mapping, PAGE_SIZE } from '../native/index.js';
import { decodeRequest } from './codec.js';
import { InflightRegion } from './inflight.js';
import { packedBaseOf } from './inflight-packed.js';
import type { RelayQueue, RelayRegion, StashedInflight } from './relay-types.js';

/** Offset of the index in the device area of a split ring. */
const USED_INDEX_OFFSET = 2;

/** A packed ring that nobody has used yet: both indices 0, both wrap counters 1. */
export const PACKED_BASE_FIRST = 0x80008000;

/**
 * The used index of a split ring, from the memory that it lies in.
 * @throws VloError VLO_PROTOCOL when it lies in none
 */
export function usedIndexOf(queue: RelayQueue, regions: readonly RelayRegion[]): number {
  const address = queue.device + USED_INDEX_OFFSET;
  const region = regions.find(
    ({ guestAddress, size }) => address >= guestAddress && address + 2 <= guestAddress + size,
  );
  if (region === undefined) {
    throw new VloError('VLO_PROTOCOL', `the ring of queue ${queue.index} is in no memory region`);
  }
  const at = region.mmapOffset + address - region.guestAddress;
  const offset = at - (at % PAGE_SIZE);
  const mapping = Mapping.shared(region.fd.number, PAGE_SIZE, { offset, readOnly: true });
  try {
    const view = mapping.windowData(0);
    assert(at % 2 === 0, 'a used ring at an odd address');
    return view.getUint16(at - offset, true);
  } finally {
    mapping.retire();
  }
}

/**
 * The base of a packed ring, from the in-flight memory; a ring without an entry in it is new.
 * @throws VloError VLO_PROTOCOL when the memory makes no sense
 */
export function packedBase(index: number, { fd, note }: StashedInflight): number {
  const region = InflightRegion.map(fd, decodeRequest('SET_INFLIGHT_FD', note, 1));
  try {
    const part = region.part(index, true);
    return (part === null ? null : packedBaseOf(part)) ?? PACKED_BASE_FIRST;
  } finally {
    region.retire();
  }
}
