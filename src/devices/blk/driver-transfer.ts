/** A read or write that one request serves: an object for each slot, used again and again. */
import type { BlkDriver } from './driver.js';
import type { BlkSlots, SlotHandler } from './driver-slots.js';
import { BLK_S } from './wire.js';

const NO_BYTES = new Uint8Array(0);

export class Transfer implements SlotHandler {
  private readonly driver: BlkDriver;
  private readonly slots: BlkSlots;
  private readonly slot: number;
  private readonly memory: Uint8Array;
  private target: Uint8Array = NO_BYTES;
  private resolve: (target: Uint8Array) => void = () => {};
  private reject: (error: unknown) => void = () => {};
  private isWrite = false;

  constructor(driver: BlkDriver, slot: number) {
    this.driver = driver;
    this.slots = driver.slots;
    this.slot = slot;
    this.memory = driver.slots.bytes(slot);
  }

  // Made once: a function for each promise would be garbage.
  private readonly capture = (
    resolve: (target: Uint8Array) => void,
    reject: (error: unknown) => void,
  ): void => {
    this.resolve = resolve;
    this.reject = reject;
  };

  /** Places the request; the slot was acquired for this object. */
  start(offset: number, bytes: Uint8Array, isWrite: boolean): Promise<Uint8Array> {
    const promise = new Promise<Uint8Array>(this.capture);
    this.target = bytes;
    this.isWrite = isWrite;
    if (isWrite) {
      this.memory.set(bytes);
      this.slots.write(this.slot, offset, bytes.length);
    } else {
      this.slots.read(this.slot, offset, bytes.length);
    }
    return promise;
  }

  done(slot: number, status: number): void {
    const { target, memory, resolve, reject, isWrite, driver } = this;
    this.target = NO_BYTES;
    if (status === BLK_S.OK) {
      if (isWrite) resolve(target);
      else {
        const { length } = target;
        target.set(length === memory.length ? memory : memory.subarray(0, length));
        resolve(target);
      }
    } else reject(driver.statusError(isWrite ? 'write' : 'read', status));
    this.slots.release(slot);
    driver.loop.yieldSoon();
  }
}
