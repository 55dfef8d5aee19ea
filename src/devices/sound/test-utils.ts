/** What the tests of this folder need: requests as a driver makes them, and a back end. */
import * as v from 'valibot';
import { defineDevice } from '../../kit/index.js';
import { join, MockDriver, type MockDriverOptions, type MockResult } from '../../testing/index.js';
import type { PcmPort, SoundBackEnd } from './backend.js';
import { NullPort } from './backend-null.js';
import { SoundDevice } from './device.js';
import { ALL_FORMATS, ALL_RATES, FORMATS, type PcmOffer, type PcmParams, RATES } from './format.js';
import { sound } from './index.js';
import {
  PcmRequest,
  PcmSetParams,
  PcmStatus,
  PcmXfer,
  SND_EVT,
  SND_Q,
  SND_R,
  SND_S,
  SndEvent,
  SndHeader,
  SndQuery,
} from './wire.js';

export const formatCode = (name: string): number =>
  FORMATS.find((format) => format.name === name)!.code;

export interface TestParams {
  readonly format?: string;
  readonly rate?: number;
  readonly channels?: number;
  readonly periodBytes?: number;
  readonly bufferBytes?: number;
  readonly features?: number;
}

/** The bytes of SET_PARAMS; by default 10 ms periods of 48 kHz, 16 bits, stereo. */
export function setParams(streamId: number, params: TestParams = {}): Uint8Array {
  const { format = 'S16_LE', rate = 48000, channels = 2, features = 0 } = params;
  const { periodBytes = 1920, bufferBytes = periodBytes * 4 } = params;
  return join(
    PcmRequest.encode({ code: SND_R.PCM_SET_PARAMS, streamId }),
    PcmSetParams.encode({
      ...{ periodBytes, bufferBytes, channels, features },
      format: formatCode(format),
      rate: RATES.indexOf(rate),
    }),
  );
}

/** The status that a control request is answered with. */
export async function control(driver: MockDriver, bytes: Uint8Array): Promise<number> {
  const { bytes: answer } = await driver.request(SND_Q.CONTROL, {
    readable: [bytes],
    writable: [4],
  });
  return SndHeader.decode(answer).code;
}

export const command = (driver: MockDriver, code: number, streamId: number): Promise<number> =>
  control(driver, PcmRequest.encode({ code, streamId }));

/** SET_PARAMS and PREPARE, which must succeed. */
export async function prepare(
  driver: MockDriver,
  streamId: number,
  params: TestParams = {},
): Promise<void> {
  const statuses = [
    await control(driver, setParams(streamId, params)),
    await command(driver, SND_R.PCM_PREPARE, streamId),
  ];
  if (statuses.some((status) => status !== SND_S.OK)) {
    throw new RangeError(`not prepared: ${statuses.map((status) => status.toString(16))}`);
  }
}

/** Places frames for a stream. */
export const play = (
  driver: MockDriver,
  streamId: number,
  frames: Uint8Array,
): Promise<MockResult> =>
  driver.request(SND_Q.TX, {
    readable: [PcmXfer.encode({ streamId }), frames],
    writable: [PcmStatus.size],
  });

/** Asks for frames of a stream. */
export const record = (driver: MockDriver, streamId: number, size: number): Promise<MockResult> =>
  driver.request(SND_Q.RX, {
    readable: [PcmXfer.encode({ streamId })],
    writable: [size, PcmStatus.size],
  });

/** The status at the end of an I/O message. */
export const statusOf = ({ buffer }: MockResult): number =>
  PcmStatus.decode(buffer.subarray(-PcmStatus.size)).status;

/** INFO requests: the status, and what follows. */
export async function query(
  driver: MockDriver,
  code: number,
  [startId, count, size]: readonly [number, number, number],
  room = count * size,
): Promise<{ status: number; items: Uint8Array; length: number }> {
  const { buffer, length } = await driver.request(SND_Q.CONTROL, {
    readable: [SndQuery.encode({ code, startId, count, size })],
    writable: [4, room],
  });
  return { status: SndHeader.decode(buffer).code, items: buffer.subarray(4), length };
}

/** The next event, as its name and its number. */
export async function nextEvent(driver: MockDriver): Promise<string> {
  const { code, data } = SndEvent.decode((await driver.nextFilled(SND_Q.EVENT)).bytes);
  const name = Object.entries(SND_EVT).find(([, value]) => value === code)?.[0];
  return `${name} ${data}`;
}

/** A back end that does what a test tells it. */
export class TestSound implements SoundBackEnd {
  /** What the next moves give, instead of all bytes. */
  result: number | null = null;
  openError: Error | null = null;
  played = 0;
  openPorts = 0;

  offer(): PcmOffer {
    return { formats: ALL_FORMATS, rates: ALL_RATES, channelsMin: 1, channelsMax: 2 };
  }

  open(_id: number, _direction: number, params: PcmParams): PcmPort {
    if (this.openError !== null) throw this.openError;
    this.openPorts += 1;
    const port = new NullPort(params);
    return {
      play: (reader) => {
        if (this.result !== null) return this.result;
        this.played += reader.remaining;
        return port.play(reader);
      },
      record: (writer) => this.result ?? port.record(writer),
      close: () => {
        this.openPorts -= 1;
      },
    };
  }

  close(): void {}
}

/** The device over it. */
export async function openTest(
  mock: MockDriverOptions = {},
  streamCount = 2,
): Promise<{ backEnd: TestSound; driver: MockDriver }> {
  const backEnd = new TestSound();
  const definition = defineDevice({
    ...sound,
    options: v.object({}),
    arguments: {},
    open: (_options, host) => new SoundDevice(backEnd, { streamCount, jackCount: 2 }, host).open(),
  });
  const driver = await MockDriver.open(definition, {}, mock);
  return { backEnd, driver };
}

export const sleep = (ms: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, ms));
