/**
 * The interface of VDUSE (vDPA Device in Userspace), as tables: field lists, from which offsets,
 * sizes, and the numbers of the ioctls come. `<linux/vduse.h>` is the source; `uapi.test.ts`
 * compares the two through the C compiler. Version 0 of the interface is all that is used: one
 * group of queues, one address space. Linux 5.15 and all later ones have it.
 */
import { defineStruct, type FieldTable } from '../../virtio/index.js';

/** Numbers of the header, without the prefix `VDUSE_`. */
export const VDUSE_NUMBER = {
  API_VERSION: 0,
  NAME_MAX: 256,
  /** Types of requests that are read from a device. */
  GET_VQ_STATE: 0,
  SET_STATUS: 1,
  UPDATE_IOTLB: 2,
  REQ_RESULT_OK: 0,
  REQ_RESULT_FAILED: 1,
  EVENTFD_DEASSIGN: -1,
} as const;

/** A word of feature bits: no number holds all of them. */
const WORD = { bytes: 8 } as const;
/** The union of what comes with a request, and of what goes with a response. */
const UNION = { bytes: 128 } as const;

/** Field lists of the structures, by the C name without `vduse_`; `fooBar` is `foo_bar` there. */
export const FIELDS = {
  /** Config space follows. */
  devConfig: {
    name: { bytes: VDUSE_NUMBER.NAME_MAX },
    vendorId: 'u32',
    deviceId: 'u32',
    features: WORD,
    vqNum: 'u32',
    vqAlign: 'u32',
    /** Numbers of groups and address spaces, for version 1 of the interface. */
    reserved: { bytes: 52 },
    configSize: 'u32',
  },
  /** A range of device addresses, both ends included, and its place in the file that it lies in. */
  iotlbEntry: { offset: 'u64', start: 'u64', last: 'u64', perm: 'u8', padding: { bytes: 7 } },
  /** Bytes follow. */
  configData: { offset: 'u32', length: 'u32' },
  vqConfig: { index: 'u32', maxSize: 'u16', reserved: { bytes: 26 } },
  vqInfo: {
    index: 'u32',
    num: 'u32',
    descAddr: 'u64',
    driverAddr: 'u64',
    deviceAddr: 'u64',
    state: { bytes: 8 },
    ready: 'u8',
    padding: { bytes: 7 },
  },
  vqEventfd: { index: 'u32', fd: 'i32' },
  devRequest: { type: 'u32', requestId: 'u32', reserved: { bytes: 16 }, union: UNION },
  devResponse: { requestId: 'u32', result: 'u32', reserved: { bytes: 16 }, union: UNION },
} as const satisfies Readonly<Record<string, FieldTable>>;

export const VduseDevConfig = defineStruct(FIELDS.devConfig);
export const VduseIotlbEntry = defineStruct(FIELDS.iotlbEntry);
export const VduseConfigData = defineStruct(FIELDS.configData);
export const VduseVqConfig = defineStruct(FIELDS.vqConfig);
export const VduseVqInfo = defineStruct(FIELDS.vqInfo);
export const VduseVqEventfd = defineStruct(FIELDS.vqEventfd);
export const VduseRequest = defineStruct(FIELDS.devRequest);
export const VduseResponse = defineStruct(FIELDS.devResponse);

// The direction of an ioctl, as <asm-generic/ioctl.h> has it on all our architectures.
const WRITES = 1;
const READS = 2;

/** `_IOC(direction, 0x81, number, size)`. */
function code(direction: number, number: number, size: number): number {
  return ((direction << 30) | (size << 16) | (0x81 << 8) | number) >>> 0;
}

/** Numbers of the ioctls, without the prefix `VDUSE_`. */
export const VDUSE_IOCTL = {
  // Of /dev/vduse/control.
  GET_API_VERSION: code(READS, 0x00, 8),
  SET_API_VERSION: code(WRITES, 0x01, 8),
  CREATE_DEV: code(WRITES, 0x02, VduseDevConfig.size),
  DESTROY_DEV: code(WRITES, 0x03, VDUSE_NUMBER.NAME_MAX),
  // Of /dev/vduse/NAME.
  IOTLB_GET_FD: code(READS | WRITES, 0x10, VduseIotlbEntry.size),
  DEV_GET_FEATURES: code(READS, 0x11, 8),
  DEV_SET_CONFIG: code(WRITES, 0x12, VduseConfigData.size),
  DEV_INJECT_CONFIG_IRQ: code(0, 0x13, 0),
  VQ_SETUP: code(WRITES, 0x14, VduseVqConfig.size),
  VQ_GET_INFO: code(READS | WRITES, 0x15, VduseVqInfo.size),
  VQ_SETUP_KICKFD: code(WRITES, 0x16, VduseVqEventfd.size),
  VQ_INJECT_IRQ: code(WRITES, 0x17, 4),
} as const;
