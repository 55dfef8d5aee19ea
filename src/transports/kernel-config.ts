/**
 * Config space between a driver in the kernel and a back end. The kernel answers reads by itself,
 * from a copy that follows the back end; what the driver writes goes to the back end, and to each
 * of its successors, until the driver is reset.
 */
import type { Relay } from '../vhost-user/index.js';
import type { AttachOptions } from './attachment.js';
import { type DeviceType, planQueues } from './device-types.js';
import { limitRequests, readBackEndConfig } from './kernel-plan.js';
import type { KernelPort } from './kernel-port.js';

/** A range of bytes in which two config spaces differ. */
interface Difference {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** The ranges of `after` that differ from `before`, each as short as can be. */
export function differences(before: Uint8Array, after: Uint8Array): Difference[] {
  const found: Difference[] = [];
  for (let start = 0; start < after.length; start += 1) {
    if (before[start] === after[start]) continue;
    let end = start + 1;
    while (end < after.length && before[end] !== after[end]) end += 1;
    found.push({ offset: start, bytes: after.slice(start, end) });
    start = end;
  }
  return found;
}

export class ConfigMirror {
  private readonly relay: Relay;
  private readonly port: KernelPort;
  private readonly type: DeviceType;
  private readonly options: AttachOptions;
  /** Config space as driver and back end know it. */
  private known: Uint8Array;
  /** What the driver wrote, oldest first, since its last reset. */
  private written: Difference[] = [];

  constructor(relay: Relay, port: KernelPort, type: DeviceType, options: AttachOptions) {
    this.relay = relay;
    this.port = port;
    this.type = type;
    this.options = options;
    this.known = port.readConfig();
  }

  /** The driver wrote: the back end is told of the bytes that changed. */
  async fromDriver(): Promise<void> {
    const now = this.port.readConfig();
    const changes = differences(this.known, now);
    this.known = now;
    if (!this.relay.hasConfig) return;
    if (this.type.isConfigWindow) {
      // All of it, as front ends do: what is shown hangs on more than one byte of it.
      if (!this.relay.isConnected) return;
      await this.relay.writeConfig(0, now);
      await this.fromBackEnd();
      return;
    }
    for (const change of changes) {
      const isSame = ({ offset, bytes }: Difference) =>
        offset === change.offset && bytes.length === change.bytes.length;
      this.written = [...this.written.filter((old) => !isSame(old)), change];
    }
    // Where no back end is there, the next one is told.
    if (!this.relay.isConnected) return;
    for (const { offset, bytes } of changes) await this.relay.writeConfig(offset, bytes);
  }

  /** The back end changed it, or is another one: the driver sees what differs. */
  async fromBackEnd(): Promise<void> {
    const { relay, port, type } = this;
    const config = await readBackEndConfig(relay, type, this.options.name);
    const { queueSizes, features, poolSize } = port.identity;
    planQueues(type, features, config, queueSizes.length);
    limitRequests(type, config, features & relay.offered, poolSize);
    const changes = differences(this.known, config);
    const [first, last] = [changes[0], changes.at(-1)];
    if (first === undefined || last === undefined) return;
    this.known = config;
    // At once: a driver must not see half of a change.
    const end = last.offset + last.bytes.length;
    port.writeConfig(first.offset, config.slice(first.offset, end));
  }

  /** Tells a new back end what the driver had written to the last one. */
  async restore(): Promise<void> {
    if (!this.relay.hasConfig) return;
    // What the window shows is what the driver asked the last one for.
    if (this.type.isConfigWindow) await this.relay.writeConfig(0, this.known);
    for (const { offset, bytes } of this.written) await this.relay.writeConfig(offset, bytes);
    await this.fromBackEnd();
  }

  /** A driver is there that another adapter dealt with: what it may write, it may have written. */
  adopt(): void {
    const { port, type, known } = this;
    this.written = type.writable
      .filter(({ feature }) => (port.identity.features & feature) !== 0n)
      .map(({ offset, size }) => ({ offset, bytes: known.slice(offset, offset + size) }));
  }

  /** The driver is gone, and with it what it wrote. */
  forget(): void {
    this.written = [];
  }
}
