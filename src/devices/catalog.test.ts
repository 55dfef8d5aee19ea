/** What holds for every device of this package. */
import { Option } from 'commander';
import { describe, expect, test } from 'vitest';
import type { OptionArgument } from '../kit/index.js';
import { DEVICES } from './catalog.js';

const camelCase = (name: string): string =>
  name.replace(/-[a-z]/g, (text) => text[1]!.toUpperCase());

describe.each(DEVICES.map((device) => [device.name, device] as const))('%s', (_name, device) => {
  test('each option has flags of its own name', () => {
    const named = Object.entries<OptionArgument>(device.arguments).map(([key, { flags }]) => [
      key,
      camelCase(new Option(flags).name()),
    ]);
    expect(named).toEqual(Object.keys(device.options.entries).map((key) => [key, key]));
  });

  test('the examples are commands that the device takes', () => {
    expect(device.examples?.length).toBeGreaterThan(0);
    for (const example of device.examples ?? []) {
      expect(example).toContain(`vlo serve ${device.name} `);
    }
  });
});
