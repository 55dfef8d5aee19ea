/** Options of a device: what a user gave wrong is named as the user gave it. */
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { VloError } from '../errors.js';
import { DeviceProcess, defineDevice, optionDomain, parseOptions } from './index.js';

const definition = defineDevice({
  name: 'probe',
  summary: 'a device for tests',
  virtioId: 63,
  options: v.object({
    imageFile: v.string('a path is needed'),
    queueCount: v.optional(v.pipe(v.number('a number is needed'), v.minValue(1, 'at least 1')), 2),
    mode: v.nullish(v.optional(v.picklist(['fast', 'safe'])), 'safe'),
  }),
  arguments: {
    imageFile: { flags: '-i, --image-file <path>', description: 'the image' },
    queueCount: { flags: '--queue-count <count>', description: 'number of queues' },
    mode: { flags: '--mode <name>', description: 'how' },
  },
  queues: [{ name: 'requestq' }],
  open: () => ({ features: 0n, handlers: { requestq: () => {} }, close: () => {} }),
});

function refusal(options: unknown): VloError {
  try {
    parseOptions(definition, options);
  } catch (error) {
    if (error instanceof VloError) return error;
  }
  throw new Error('the options were taken');
}

describe('options', () => {
  test('what they take is read from the schema', () => {
    expect(optionDomain(definition, 'imageFile')).toEqual({ type: 'string', choices: [] });
    expect(optionDomain(definition, 'queueCount')).toEqual({ type: 'number', choices: [] });
    const mode = { type: 'picklist', choices: ['fast', 'safe'] };
    expect(optionDomain(definition, 'mode')).toEqual(mode);
  });

  test('defaults are filled in', () => {
    expect(parseOptions(definition, { imageFile: 'a' })).toEqual({
      imageFile: 'a',
      queueCount: 2,
      mode: 'safe',
    });
  });

  test.each([
    ['a missing one', {}, 'probe: --image-file is required'],
    ['a wrong type', { imageFile: 5 }, 'probe: --image-file: a path is needed'],
    ['out of range', { imageFile: 'a', queueCount: 0 }, 'probe: --queue-count: at least 1'],
    ['an unknown one', { imageFile: 'a', speed: 1 }, "probe: there is no option 'speed'"],
  ])('%s is named as its flag', (_what, options, message) => {
    const error = refusal(options);
    expect(error.code).toBe('VLO_OPTION_INVALID');
    expect(error.exitStatus).toBe(2);
    expect(error.message).toBe(message);
  });

  test('no options at all', () => {
    expect(refusal(undefined).code).toBe('VLO_OPTION_INVALID');
  });

  test('a device is not opened with wrong options', async () => {
    await expect(DeviceProcess.open(definition, {})).rejects.toMatchObject({
      code: 'VLO_OPTION_INVALID',
    });
  });
});

test('a definition has a name for the command line, and queues', () => {
  expect(() => defineDevice({ ...definition, name: 'Probe!' })).toThrow(/device name/);
  expect(() => defineDevice({ ...definition, queues: [] })).toThrow(/no queues/);
});
