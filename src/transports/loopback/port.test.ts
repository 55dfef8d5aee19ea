/** A device that the kernel takes away at any moment, and sessions that cannot begin. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SystemError, type VloError } from '../../errors.js';
import { createEventFd, signalEvent } from '../../native/index.js';
import { expectNoLeaks } from '../../native/test-utils.js';
import { F, STATUS } from '../../virtio/index.js';
import type { PortHandler, PortSpec } from '../kernel-port.js';
import { featureBytes, type LoopbackControl, type LoopbackEvent } from './control.js';
import { LoopbackPort } from './port.js';
import { VLO } from './uapi.js';

const READY = STATUS.DRIVER_OK;
const ANYTHING = VLO.EVENT_STATUS | VLO.EVENT_QUEUES | VLO.EVENT_RESET;

/** The file of a device whose kernel is the test. From `gone` on each call fails with ENODEV. */
class FakeControl {
  readonly fd = createEventFd();
  readonly events: LoopbackEvent[] = [];
  /** Calls, in their order; reads of events are counted apart. */
  readonly calls: string[] = [];
  reads = 0;
  isGone = false;
  /** The error of each ioctl of that name. */
  readonly errors = new Map<string, string>();

  tell(events: number, status = 0, unacked = 0): void {
    this.events.push({ events, status, sequence: 1, unacked });
    signalEvent(this.fd.number);
  }

  private ioctl<T>(name: string, result: T): T {
    this.calls.push(name);
    const errno = this.isGone ? 'ENODEV' : this.errors.get(name);
    if (errno !== undefined) throw new SystemError(`VLO_${name}`, errno);
    return result;
  }

  /** The file stays readable, as one of a device that is gone does. */
  readEvent(): LoopbackEvent | null {
    this.reads += 1;
    const event = this.events.shift() ?? null;
    if (event === null && this.isGone) throw new SystemError('read', 'ENODEV');
    return event;
  }

  info() {
    const word = featureBytes(F.VERSION_1);
    const identity = { id: 0, flags: 0, deviceId: 4, queueCount: 1, configSize: 8 };
    const features = { features: word, driverFeatures: word };
    return this.ioctl('GET_INFO', { ...identity, ...features, queueSizes: new Uint8Array(128) });
  }

  queue(index: number) {
    const areas = { descriptor: 0, driver: 0, device: 0 };
    return this.ioctl('GET_QUEUE', { index, state: VLO.QUEUE_STARTED, size: 8, base: 0, ...areas });
  }

  memory() {
    return this.ioctl('GET_MEMORY', { fd: createEventFd(), address: 2 ** 46, size: 2 ** 20 });
  }

  start() {
    return this.ioctl('START', { flags: 0, number: 1, replayed: 0, failed: 0 });
  }

  setKick = () => this.ioctl('SET_KICK', undefined);
  setCall = () => this.ioctl('SET_CALL', undefined);
  acknowledge = () => this.ioctl('ACK', undefined);
  readConfig = (_offset: number, size: number) => this.ioctl('GET_CONFIG', new Uint8Array(size));
  writeConfig = () => this.ioctl('SET_CONFIG', undefined);
  remove = () => this.ioctl('REMOVE', undefined);

  close(): void {
    this.fd.close();
  }
}

/** What the engine hears. */
class Heard implements PortHandler {
  readonly words: string[] = [];
  /** The kernel takes the device away while the engine deals with a change. */
  onChange: () => void = () => {};

  async changed({ queues }: { queues: readonly unknown[] }): Promise<void> {
    this.words.push(`changed ${queues.length}`);
    this.onChange();
  }
  async configWritten(): Promise<void> {
    this.words.push('config');
  }
  ringFeatures = (): bigint => 0n;
  broken = (): void => void this.words.push('broken');
  failed = ({ code }: VloError): void => void this.words.push(`failed ${code}`);
  gone = (): void => void this.words.push('gone');
}

let control: FakeControl;
let heard: Heard;
let lines: string[];
beforeEach(() => {
  heard = new Heard();
  lines = [];
});
afterEach(() => control.close());

function open(): LoopbackPort {
  control = new FakeControl();
  const spec = { type: 'rng', log: (line: string) => lines.push(line) } as unknown as PortSpec;
  return new LoopbackPort(control as unknown as LoopbackControl, spec, false);
}

const turns = (ms = 20): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Runs a test with a port, and checks that nothing is left. */
async function withPort(work: (port: LoopbackPort) => Promise<void>): Promise<void> {
  await expectNoLeaks(async () => {
    const port = open();
    port.listen(heard);
    await turns(1);
    try {
      await work(port);
    } finally {
      port.close();
    }
  });
}

/** Nothing is asked any more, though the file stays readable. */
async function mustBeQuiet(): Promise<void> {
  const before = [control.reads, control.calls.length];
  signalEvent(control.fd.number);
  await turns();
  expect([control.reads, control.calls.length]).toEqual(before);
}

test('an adapter that was stopped reads all at once: the device is gone', () =>
  withPort(async () => {
    control.tell(ANYTHING, READY);
    await turns();
    expect(heard.words).toEqual(['changed 1']);
    control.isGone = true;
    control.tell(ANYTHING | VLO.EVENT_CONFIG | VLO.EVENT_GONE, 0, 1);
    await turns();
    expect(heard.words).toEqual(['changed 1', 'gone']);
    await mustBeQuiet();
    expect(lines).toEqual([]);
  }));

test('the device goes between two calls', () =>
  withPort(async () => {
    heard.onChange = () => {
      control.isGone = true;
    };
    control.tell(ANYTHING, READY, 1);
    await turns();
    expect(control.calls.at(-1)).toBe('ACK');
    expect(heard.words).toEqual(['changed 1', 'gone']);
    await mustBeQuiet();
  }));

test('the last event was lost: the file says it', () =>
  withPort(async () => {
    control.isGone = true;
    signalEvent(control.fd.number);
    await turns();
    expect(heard.words).toEqual(['gone']);
    await mustBeQuiet();
  }));

test.each([
  ['renew', 'START', (port: LoopbackPort) => port.renew()],
  ['readConfig', 'GET_CONFIG', (port: LoopbackPort) => port.readConfig()],
  ['writeConfig', 'SET_CONFIG', (port: LoopbackPort) => port.writeConfig(0, new Uint8Array(4))],
] as const)('%s finds it gone', (_, call, action) =>
  withPort(async (port) => {
    control.isGone = true;
    for (let i = 0; i < 2; i += 1) {
      const removed = expect.objectContaining({ code: 'VLO_DEVICE_FAILED' });
      expect(() => action(port)).toThrowError(removed);
    }
    expect(control.calls.at(-1)).toBe(call);
    expect(heard.words).toEqual(['gone']);
    port.remove();
    await mustBeQuiet();
  }),
);

test('a session that cannot begin fails the device; other errors do not', () =>
  withPort(async () => {
    control.errors.set('START', 'ENOMEM');
    control.tell(ANYTHING, READY);
    await turns();
    expect(heard.words).toEqual(['failed VLO_TRANSPORT_UNAVAILABLE']);
    control.errors.clear();
    control.errors.set('ACK', 'EINVAL');
    control.tell(ANYTHING, READY, 1);
    await turns();
    expect(heard.words).toEqual(['failed VLO_TRANSPORT_UNAVAILABLE', 'changed 1']);
    expect(lines).toEqual(['VLO_SYSTEM: VLO_ACK failed: EINVAL']);
  }));
