/** What commander makes of a command line, as the options of a device. */
import { Command } from 'commander';
import { expect, test } from 'vitest';
import { DEVICES } from '../devices/catalog.js';
import type { OptionArgument } from '../kit/index.js';
import { deviceOptions } from './serve.js';

/** The options of a device after its own words. */
function optionsOf(type: string, ...words: string[]): object {
  const device = DEVICES.find(({ name }) => name === type)!;
  const command = new Command();
  for (const { flags } of Object.values<OptionArgument>(device.arguments)) command.option(flags);
  command.option('--no-packed').option('--trace');
  return deviceOptions(device, command.parse(words, { from: 'user' }).opts());
}

test('digits become a number where the device wants one', () => {
  const words = ['-b', '1', '--serial', '0001', '--num-queues', '4', '--direct', '--trace'];
  const blk = { blkFile: '1', serial: '0001', numQueues: 4, direct: true };
  expect(optionsOf('blk', ...words)).toEqual(blk);
  expect(optionsOf('blk', '--num-queues', 'x', '--no-packed')).toEqual({ numQueues: 'x' });
  expect(optionsOf('console', '-p', 'a', '2')).toEqual({ port: ['a', '2'] });
});

test('an option that begins with no- means what it says', () => {
  const path = { evdevPath: '/dev/input/event3' };
  expect(optionsOf('input', '-p', path.evdevPath)).toEqual({ ...path, noGrab: false });
  expect(optionsOf('input', '-p', path.evdevPath, '-n')).toEqual({ ...path, noGrab: true });
});
