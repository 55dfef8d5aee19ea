/** What holds for every device of this package. */
import { Option } from 'commander';
import { describe, expect, test } from 'vitest';
import type { OptionArgument } from '../kit/index.js';
import { DEVICES } from './catalog.js';

describe.each(DEVICES.map((device) => [device.name, device] as const))('%s', (_name, device) => {
  test('the flags of each option lead to its key, also those that begin with no-', () => {
    const keys = Object.keys(device.options.entries);
    const named = Object.entries<OptionArgument>(device.arguments).map(([key, { flags }]) => [
      key,
      new Option(flags).attributeName(),
    ]);
    expect(named).toEqual(keys.map((key) => [key, key]));
  });

  test('the examples are commands that the device takes', () => {
    expect(device.examples?.length).toBeGreaterThan(0);
    for (const example of device.examples ?? []) {
      expect(example).toContain(`vlo serve ${device.name} `);
    }
  });
});
