/**
 * What the other side of a ring can do wrong, as one type for each side: neither an operating error
 * nor our own bug.
 */

/** Every way in which a driver's ring or request can be malformed. */
export type FaultReason =
  /** The driver claims more available entries than the ring holds. */
  | 'index-jump'
  /** A descriptor or head index is not below the queue size. */
  | 'index-range'
  /** A chain is longer than allowed, or has a cycle. */
  | 'chain-length'
  /** A range is not inside the memory that the driver shared. */
  | 'address'
  /** A readable descriptor follows a writable one. */
  | 'order'
  /** The lengths of a chain add up to 4 GiB or more. */
  | 'size'
  /** An indirect table is empty, misshapen, nested, or was not negotiated. */
  | 'indirect'
  /** A request is shorter than its header or its status field. */
  | 'short'
  /** A request's content breaks the rules of its device type. */
  | 'request';

/**
 * The driver broke a rule of the virtio specification. On a ring the queue stops until the driver
 * resets it; the reason is counted, logged once, and reported to the front end.
 */
export class DriverFault extends Error {
  readonly reason: FaultReason;

  constructor(reason: FaultReason, message: string) {
    super(message);
    this.name = 'DriverFault';
    this.reason = reason;
  }
}

/** Every way in which a device can answer wrongly. */
export type DeviceFaultReason =
  /** The device claims more used entries than there are requests in flight. */
  | 'index-jump'
  /** A used entry names no request that is in flight. */
  | 'used-id'
  /** A used length exceeds the writable part of its request. */
  | 'used-length';

/** The device broke a rule of the specification: the driver must reset the queue. */
export class DeviceFault extends Error {
  readonly reason: DeviceFaultReason;

  constructor(reason: DeviceFaultReason, message: string) {
    super(message);
    this.name = 'DeviceFault';
    this.reason = reason;
  }
}
