/** Payloads for requests: recognizable bytes, and ways to cut them into segments. */

/** `size` bytes that differ from place to place and from seed to seed. */
export function pattern(size: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(size);
  let state = Math.imul(seed, 0x9e3779b1) | 1;
  for (let i = 0; i < size; i += 1) {
    state = (Math.imul(state, 1103515245) + 12345) | 0;
    bytes[i] = state >>> 16;
  }
  return bytes;
}

/** Cuts bytes at the given offsets: `cutAt(header, 1, 15)` gives three segments. */
export function cutAt(bytes: Uint8Array, ...offsets: readonly number[]): Uint8Array[] {
  const ends = [...offsets, bytes.length];
  return ends.map((end, index) => bytes.subarray(index === 0 ? 0 : ends[index - 1], end));
}

/** Cuts bytes into segments of `size`; the last one may be shorter. */
export function cutEvery(bytes: Uint8Array, size: number): Uint8Array[] {
  const segments: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += size) segments.push(bytes.subarray(at, at + size));
  return segments;
}

/** Cuts a writable part of `total` bytes at the given offsets into sizes of segments. */
export function cutSize(total: number, ...offsets: readonly number[]): number[] {
  const ends = [...offsets, total];
  return ends.map((end, index) => end - (index === 0 ? 0 : ends[index - 1]!));
}

/** Joins segments. */
export function join(...parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
