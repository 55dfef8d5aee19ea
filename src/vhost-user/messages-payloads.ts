/**
 * Payload layouts of vhost-user, by the names that the reference page uses for them.
 *
 * From section "Payload" of "Vhost-user Protocol" in QEMU's documentation.
 */
import {
  CONFIG_BYTES_MAX,
  MEM_TABLE_REGIONS_MAX,
  PAYLOAD_BYTES_MAX,
  SHMEM_REGIONS,
} from './messages-constants.js';
import { defineLayout, type FieldTable } from './messages-layout.js';

const EMPTY = defineLayout({});
const U64 = defineLayout({ value: 'word' });
const VRING_STATE = defineLayout({ index: 'u32', num: 'u32' });
const REGION = {
  guestAddress: 'u64',
  size: 'u64',
  userAddress: 'u64',
  mmapOffset: 'u64',
} as const satisfies FieldTable;
const IOTLB = defineLayout({
  iova: 'word',
  size: 'word',
  userAddress: 'word',
  permissions: 'u8',
  type: 'u8',
  padding: { pad: 6 },
});
const CONFIG = defineLayout({
  offset: 'u32',
  size: 'u32',
  flags: 'u32',
  bytes: { sized: 'size', max: CONFIG_BYTES_MAX },
});
// 20 bytes in the specification; QEMU and others send the C struct with its 4 bytes of padding.
const INFLIGHT = defineLayout(
  { mmapSize: 'u64', mmapOffset: 'u64', queueCount: 'u16', queueSize: 'u16', padding: { pad: 4 } },
  [20],
);
const MMAP = defineLayout({
  shmid: 'u8',
  padding: { pad: 7 },
  fdOffset: 'u64',
  shmOffset: 'u64',
  length: 'u64',
  flags: 'word',
});

/** All layouts of requests and replies. */
export const LAYOUTS = {
  none: EMPTY,
  u64: U64,
  'vring state': VRING_STATE,
  'vring address': defineLayout({
    index: 'u32',
    flags: 'u32',
    descriptor: 'u64',
    used: 'u64',
    available: 'u64',
    // A word: front ends that never log send all ones.
    log: 'word',
  }),
  'memory table': defineLayout({ regions: { list: REGION, max: MEM_TABLE_REGIONS_MAX } }),
  'memory region': defineLayout({ padding: { pad: 8 }, ...REGION }),
  // Without LOG_SHMFD there is no descriptor, and 8 bytes are legal.
  log: defineLayout({ size: 'u64', offset: 'u64' }, [8]),
  iotlb: IOTLB,
  config: CONFIG,
  'crypto session': defineLayout({ session: { raw: PAYLOAD_BYTES_MAX } }),
  'vring area': defineLayout({ value: 'word', size: 'u64', offset: 'u64' }),
  inflight: INFLIGHT,
  uuid: defineLayout({ uuid: { bytes: 16 } }),
  'device state': defineLayout({ direction: 'u32', phase: 'u32' }),
  mmap: MMAP,
  'shared memory': defineLayout({
    regionCount: 'u32',
    padding: { pad: 4 },
    sizes: { numbers: SHMEM_REGIONS },
  }),
} as const;
