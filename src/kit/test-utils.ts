/** A device of two queues for the kit's own tests, and drivers that end with each test. */
import * as v from 'valibot';
import { afterEach } from 'vitest';
import { MockDriver, type MockDriverOptions, pattern } from '../testing/index.js';
import {
  type AnyDeviceDefinition,
  type DeviceHost,
  defineDevice,
  type Handler,
  type OpenDevice,
} from './index.js';

type Parts = Partial<OpenDevice<'requestq' | 'eventq'>>;

/** A device with one request queue (0) and one supply queue (1). */
export function device(handler: Handler, more: (host: DeviceHost) => Parts = () => ({})) {
  return defineDevice({
    name: 'probe',
    summary: 'a device for tests',
    virtioId: 63,
    options: v.object({}),
    arguments: {},
    queues: [{ name: 'requestq' }, { name: 'eventq', kind: 'supply' }],
    open: (_options, host) => ({
      features: 0n,
      handlers: { requestq: handler },
      close: () => {},
      ...more(host),
    }),
  });
}

/** Copies what it reads to what it may write. */
export const echo: Handler = ({ reader, writer }) => {
  const bytes = new Uint8Array(Math.min(reader.remaining, writer.remaining));
  reader.read(bytes);
  writer.write(bytes);
};

const open: MockDriver[] = [];
/** A driver of a device, until the test ends. */
export async function drive(definition: AnyDeviceDefinition, options: MockDriverOptions = {}) {
  const driver = await MockDriver.open(definition, {}, options);
  open.push(driver);
  return driver;
}
afterEach(async () => {
  for (const driver of open.splice(0)) await driver.close();
});

/** Sends a pattern; a device that echoes answers with the same. */
export const ask = (driver: MockDriver, seed = 1, size = 8) =>
  driver.request(0, { readable: [pattern(size, seed)], writable: [size] });

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
