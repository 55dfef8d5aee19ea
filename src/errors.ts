/**
 * Every error that a user can meet: one table from which the classes, the exit status of `vlo` and
 * the page `docs/reference/errors.md` are checked. Codes are stable; messages are not.
 *
 * Three kinds of failure never mix: an operating error is a {@link VloError}, a driver that breaks
 * the ring's rules is a `DriverFault` (see `virtio/fault.ts`), and our own mistake is an
 * {@link AssertionError}, which nobody is expected to catch.
 */

interface ErrorEntry {
  /** Exit status of `vlo`: 1 for a failure, 2 for wrong usage or configuration. */
  readonly exitStatus: 1 | 2;
  /** One sentence for the reference: what happened and what to do. */
  readonly summary: string;
}

/** All error codes, with their exit status and what to do about them. */
export const ERROR_TABLE = {
  VLO_USAGE: { exitStatus: 2, summary: 'A command line is wrong; the message names the option.' },
  VLO_OPTION_INVALID: {
    exitStatus: 2,
    summary:
      'An option of a device has a value outside its domain; the message says which values fit.',
  },
  VLO_DEVICE_UNKNOWN: {
    exitStatus: 2,
    summary: 'No device type has that name; `vlo serve --help` lists the types.',
  },
  VLO_SYSTEM: {
    exitStatus: 1,
    summary: 'A system call failed; `errno` holds its name and `syscall` the call.',
  },
  VLO_UNSUPPORTED: {
    exitStatus: 1,
    summary: 'This machine or build lacks something; the message says what, and what would add it.',
  },
  VLO_SOCKET_IN_USE: {
    exitStatus: 1,
    summary: 'Another process listens on the socket path: stop it, or choose another path.',
  },
  VLO_SOCKET_PATH: {
    exitStatus: 2,
    summary: 'A socket path is too long, not a socket, or in a folder that is not there.',
  },
  VLO_SOCKET_FD: {
    exitStatus: 2,
    summary: 'The descriptor given with --fd is not an open Unix stream socket.',
  },
  VLO_IMAGE_MISSING: {
    exitStatus: 1,
    summary: 'The image file does not exist; create it, or give a `size` in the file of devices.',
  },
  VLO_IMAGE_ACCESS: {
    exitStatus: 1,
    summary: 'The image cannot be opened as asked; check its permissions or use --read-only.',
  },
  VLO_IMAGE_SIZE: {
    exitStatus: 2,
    summary:
      'The size of the image is zero, no multiple of 512 bytes, or not the `size` that is asked for; ' +
      '`truncate` mends it.',
  },
  VLO_IMAGE_TYPE: {
    exitStatus: 2,
    summary: 'The image is neither a regular file nor a block device.',
  },
  VLO_SOURCE_ACCESS: {
    exitStatus: 1,
    summary:
      'The source of entropy or input cannot be opened or read; check the path that the message names.',
  },
  VLO_PORT_ACCESS: {
    exitStatus: 1,
    summary: 'The socket, file or terminal of a console port cannot be made; check its path.',
  },
  VLO_CAN_INTERFACE: {
    exitStatus: 1,
    summary:
      'A CAN interface is not there, is of another kind, or cannot be made or used; the message says ' +
      'what is missing.',
  },
  VLO_CHIP_ACCESS: {
    exitStatus: 1,
    summary:
      'The GPIO chip of --device-list is not there, is no GPIO chip, or cannot be opened; the message ' +
      'says which of them.',
  },
  VLO_SOUND_ACCESS: {
    exitStatus: 1,
    summary:
      'A WAV file of a sound device cannot be opened, or is no WAV file that can be served; the ' +
      'message says why, and names the option.',
  },
  VLO_PROTOCOL: {
    exitStatus: 1,
    summary:
      'The vhost-user peer broke the protocol; the connection was closed, the device serves on.',
  },
  VLO_DISCONNECTED: {
    exitStatus: 1,
    summary: 'The vhost-user peer closed the connection, or is not there.',
  },
  VLO_BACKEND_FEATURES: {
    exitStatus: 1,
    summary: 'The back end lacks a feature that is needed; the message names it.',
  },
  VLO_BACKEND_REFUSED: {
    exitStatus: 1,
    summary: 'The back end answered a message with a failure; its own log says why.',
  },
  VLO_TIMEOUT: { exitStatus: 1, summary: 'The peer did not answer within the time limit.' },
  VLO_DEVICE_FAILED: {
    exitStatus: 1,
    summary: 'The device answered a request with an error status; the message names the status.',
  },
  VLO_REQUEST_INVALID: {
    exitStatus: 2,
    summary: 'A request to a driver is out of range or not aligned; the message says which bound.',
  },
  VLO_CONFIG_MISSING: {
    exitStatus: 2,
    summary: 'The file that describes the devices does not exist or cannot be read.',
  },
  VLO_CONFIG_SYNTAX: {
    exitStatus: 2,
    summary: 'The file of devices is not valid YAML; the message has line and column.',
  },
  VLO_CONFIG_KEY: {
    exitStatus: 2,
    summary:
      'The file of devices has a key that is unknown, given twice, missing, or out of place; the ' +
      'message has line, column, and the nearest valid key.',
  },
  VLO_CONFIG_VALUE: {
    exitStatus: 2,
    summary: 'A value in the file of devices does not fit; the message says which values do.',
  },
  VLO_RUN_DIR: {
    exitStatus: 1,
    summary: 'The run directory cannot be made or used; choose another one with --run-dir.',
  },
  VLO_HAL_RUNNING: {
    exitStatus: 1,
    summary: 'Another `vlo up` uses the run directory: `vlo down` ends it, or choose --run-dir.',
  },
  VLO_HAL_NOT_RUNNING: {
    exitStatus: 1,
    summary: 'No `vlo up` runs with this run directory; check --run-dir.',
  },
  VLO_NAME_UNKNOWN: {
    exitStatus: 2,
    summary: 'No device of the running HAL has that name; the message lists the names.',
  },
  VLO_DEVICE_START: {
    exitStatus: 1,
    summary: 'A device process did not start or died too often; its own message says why.',
  },
  VLO_TRANSPORT_UNAVAILABLE: {
    exitStatus: 1,
    summary: 'The transport asked for is not there, or cannot serve this type of device.',
  },
  VLO_DEVICE_IN_USE: {
    exitStatus: 1,
    summary: 'A living adapter has a device of that name: end it, or choose another name.',
  },
  VLO_DEVICE_MISMATCH: {
    exitStatus: 1,
    summary:
      'The kernel has a device of that name which this back end cannot serve; the message says what ' +
      'differs. It goes away by itself when its time for a takeover is over.',
  },
  VLO_FUSE_UNAVAILABLE: {
    exitStatus: 1,
    summary: 'FUSE cannot be used here; the message says what is missing and how to add it.',
  },
  VLO_DEMO_FAILED: {
    exitStatus: 1,
    summary: 'A step of the demonstration did not verify; the message says which.',
  },
  VLO_BENCH_UNAVAILABLE: {
    exitStatus: 1,
    summary: 'Nothing of what is to be measured is on this machine; the message says what adds it.',
  },
  VLO_BENCH_FAILED: {
    exitStatus: 1,
    summary: 'A measurement could not be made or finished; the message, and the report, say which.',
  },
  VLO_BENCH_RESULT: {
    exitStatus: 2,
    summary: 'A file that a report is to be made from is no result of `vlo bench transports`.',
  },
  VLO_CLOSED: { exitStatus: 1, summary: 'The object was closed before the operation finished.' },
} as const satisfies Record<string, ErrorEntry>;

/** A code of {@link ERROR_TABLE}. */
export type ErrorCode = keyof typeof ERROR_TABLE;

const BRAND = Symbol.for('virtio-loopback.error');

/** An operating error: something outside this program is not as it has to be. */
export class VloError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'VloError';
    this.code = code;
    Object.defineProperty(this, BRAND, { value: true });
  }

  /** Exit status that `vlo` ends with: 1 for a failure, 2 for wrong usage or configuration. */
  get exitStatus(): 1 | 2 {
    return ERROR_TABLE[this.code].exitStatus;
  }

  /** True for errors of any loaded copy of this package. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (!Function.prototype[Symbol.hasInstance].call(Error, value)) return false;
    if (this !== VloError) return Function.prototype[Symbol.hasInstance].call(this, value);
    return (value as Record<symbol, unknown>)[BRAND] === true;
  }
}

/** A failed system call: `errno` is its name (`'ENOENT'`), `syscall` the function (`'mmap'`). */
export class SystemError extends VloError {
  readonly errno: string;
  readonly syscall: string;

  constructor(syscall: string, errno: string, detail = '') {
    super('VLO_SYSTEM', `${syscall}${detail === '' ? '' : ` (${detail})`} failed: ${errno}`);
    this.name = 'SystemError';
    this.errno = errno;
    this.syscall = syscall;
  }
}

/** A broken invariant of this program: a bug to report, never an answer to bad input. */
export class AssertionError extends Error {
  constructor(message: string) {
    super(`virtio-loopback bug: ${message}`);
    this.name = 'AssertionError';
  }
}

/** Throws {@link AssertionError} unless `condition` holds. For programmer errors only. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}
