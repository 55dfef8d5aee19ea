/**
 * The input driver: events of any vhost-user back end, as a TypeScript API.
 *
 * ```ts
 * const input = await InputDriver.connect({ path: '/tmp/kbd.sock' });
 * input.listen(({ codes, values, count }) => show(codes.subarray(0, count)));
 * input.setStatus(0x11, 1, 1); // EV_LED, LED_CAPSL, on
 * await input.close();
 * ```
 */
import { assert, type VloError } from '../../errors.js';
import { type DriverClient, DriverHost, type DriverOptions } from '../../kit/driver-host.js';
import type { SharedBlock } from '../../vhost-user/index.js';
import type { DriverQueue } from '../../virtio/index.js';
import { type AxisRange, EventList, type InputDescription } from './backend.js';
import { CODE_COUNTS, PROPERTY } from './codes.js';
import { bitsOf, trimBitmap } from './config-codec.js';
import { EV, InputAbs, InputConfig, InputEvent, InputIds, SELECT, SYN } from './wire.js';

/** Entries of both queues; buffers for events lie before those for status. */
const SLOT_COUNT = 64;
const EVENT_SIZE = InputEvent.size;
const EVENT_TYPES = Object.values(EV).filter((type) => type !== EV.SYN);

export class InputDriver implements DriverClient {
  /** eventq and statusq. */
  readonly queueCount = 2;
  /** What the device is. */
  description!: InputDescription;
  private readonly host: DriverHost;
  private onReport: ((events: EventList) => void) | null = null;
  private readonly events = new EventList();
  private readonly spare: number[] = [];
  private memory!: SharedBlock;
  private view!: DataView;
  private isTooLong = false;

  private constructor(host: DriverHost) {
    this.host = host;
  }

  /**
   * Connects to a back end, asks what it is, and brings the device into service.
   * @throws VloError VLO_DISCONNECTED, VLO_BACKEND_FEATURES, VLO_TIMEOUT or VLO_PROTOCOL
   */
  static async connect(options: DriverOptions): Promise<InputDriver> {
    const host = await DriverHost.connect(options, 0n);
    try {
      const driver = new InputDriver(host);
      driver.description = await driver.describe();
      const size = 2 * SLOT_COUNT * EVENT_SIZE;
      const plan = {
        count: driver.queueCount,
        size: SLOT_COUNT,
        tableLength: 0,
        extraBytes: size + 4096,
      };
      await host.open(plan, driver);
      driver.memory = host.allocate(size);
      const { buffer, byteOffset } = driver.memory.bytes;
      driver.view = new DataView(buffer, byteOffset, size);
      for (let i = 0; i < SLOT_COUNT; i += 1) driver.spare.push(SLOT_COUNT + i);
      return driver;
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  /**
   * Has the device tell its events, report by report: `onReport` gets each with its SYN_REPORT, in a
   * list that is filled anew afterwards. Once only.
   */
  listen(onReport: (events: EventList) => void): void {
    assert(this.onReport === null, 'somebody listens already');
    this.onReport = onReport;
    if (this.error !== null) return;
    for (let token = 0; token < SLOT_COUNT; token += 1) this.place(this.host.rings[0]!, token);
    this.host.loop.wake();
  }

  /** Why the driver can do nothing more; null while all is well. */
  get error(): VloError | null {
    return this.host.error;
  }

  /**
   * Sets a LED or a sound. False when it is lost: too many are under way, or the driver has ended.
   */
  setStatus(type: number, code: number, value: number): boolean {
    const token = this.error === null ? this.spare.pop() : undefined;
    if (token === undefined) return false;
    const at = token * EVENT_SIZE;
    this.view.setUint16(at, type, true);
    this.view.setUint16(at + 2, code, true);
    this.view.setInt32(at + 4, value, true);
    this.place(this.host.rings[1]!, token);
    this.host.loop.wake();
    return true;
  }

  /** Gives the back end up. */
  abandon(error: VloError): void {
    this.host.fail(error);
  }

  /** Ends the driver. Idempotent. */
  async close(): Promise<void> {
    await this.host.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private async ask(select: number, subsel: number): Promise<Uint8Array> {
    await this.host.writeConfig(0, Uint8Array.of(select, subsel));
    const bytes = await this.host.readConfig(0, InputConfig.size);
    const { size, answer } = InputConfig.decode(bytes);
    return answer.slice(0, size);
  }

  private async describe(): Promise<InputDescription> {
    const text = async (select: number): Promise<string> =>
      new TextDecoder().decode(await this.ask(select, 0));
    const codes = new Map<number, Uint8Array>();
    for (const type of EVENT_TYPES) {
      // What has no number in Linux is nothing that anybody could be told of.
      const sizeMax = ((CODE_COUNTS[type] ?? 0) + 7) >> 3;
      const bitmap = trimBitmap((await this.ask(SELECT.EV_BITS, type)).subarray(0, sizeMax));
      if (bitmap.length > 0) codes.set(type, bitmap);
    }
    const axes = new Map<number, AxisRange>();
    for (const code of bitsOf(codes.get(EV.ABS))) {
      const range = decodeAs(InputAbs, await this.ask(SELECT.ABS_INFO, code));
      const { min, max, fuzz, flat, res } = range;
      const axis = { min: min | 0, max: max | 0, fuzz: fuzz | 0, flat: flat | 0, res: res | 0 };
      axes.set(code, axis);
    }
    const propertiesMax = CODE_COUNTS[PROPERTY]! >> 3;
    const properties = (await this.ask(SELECT.PROP_BITS, 0)).subarray(0, propertiesMax);
    return {
      name: await text(SELECT.ID_NAME),
      serial: await text(SELECT.ID_SERIAL),
      ids: decodeAs(InputIds, await this.ask(SELECT.ID_DEVIDS, 0)),
      properties: trimBitmap(properties),
      codes,
      axes,
    };
  }

  /** @internal */
  place(ring: DriverQueue, token: number): void {
    ring.begin();
    const address = this.memory.address + token * EVENT_SIZE;
    if (token < SLOT_COUNT) ring.addWritable(address, EVENT_SIZE);
    else ring.addReadable(address, EVENT_SIZE);
    assert(ring.commit(token), 'the ring has no room for a slot');
  }

  /** @internal */
  used(token: number, length: number): void {
    if (token >= SLOT_COUNT) {
      this.spare.push(token);
      return;
    }
    if (length >= EVENT_SIZE) this.take(token * EVENT_SIZE);
    this.place(this.host.rings[0]!, token);
    this.host.loop.wake();
  }

  private take(at: number): void {
    const { events, view } = this;
    const [type, code] = [view.getUint16(at, true), view.getUint16(at + 2, true)];
    const isFull = !events.add(type, code, view.getInt32(at + 4, true));
    // A report without an end is the device's fault, and no reason to keep ever more of it.
    if (isFull) this.isTooLong = true;
    if (type !== EV.SYN || code !== SYN.REPORT) return;
    if (!this.isTooLong) this.onReport!(events);
    events.count = 0;
    this.isTooLong = false;
  }

  /** @internal */
  failed(): void {
    this.events.count = 0;
  }

  /** @internal */
  configChanged(): void {}
}

/** An answer that is too short has zeros for the rest. */
function decodeAs<T>(struct: { size: number; decode(bytes: Uint8Array): T }, bytes: Uint8Array): T {
  const whole = new Uint8Array(struct.size);
  whole.set(bytes.subarray(0, struct.size));
  return struct.decode(whole);
}
