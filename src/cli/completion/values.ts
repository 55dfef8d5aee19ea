/** What may stand in each place of a command line: words, files, names of devices. */
import type { Argument, Option } from 'commander';
import { ATTACHABLE_TYPES, TRANSPORT_CHOICES } from '../../adapter/attach.js';
import { DEVICES } from '../../devices/catalog.js';
import { DEVICE_CHOICES } from '../../evaluate/options.js';
import { kebabCase } from '../../hal/config-values.js';
import { type OptionArgument, optionDomain } from '../../kit/index.js';
import { PORT_MEMORIES } from '../../transports/attachment.js';
import { EDGES } from '../gpio.js';

/** Words, or what a shell finds by itself; `any`: nobody knows. */
export type Values = readonly string[] | 'file' | 'folder' | 'device' | 'any';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** What the tree of commands does not tell, by command and place. */
const KNOWN: Readonly<Record<string, Values>> = {
  'restart <name>': 'device',
  'attach <type>': ATTACHABLE_TYPES,
  'attach --transport': TRANSPORT_CHOICES,
  'attach --memory': PORT_MEMORIES,
  'gpio info --name': 'device',
  'gpio get --name': 'device',
  'gpio set --name': 'device',
  'gpio watch --name': 'device',
  'gpio watch --edge': EDGES,
  'bench transports --device': DEVICE_CHOICES,
  'bench transports --dir': 'folder',
  'completion <shell>': SHELLS,
};

/** Options of devices that have words or files, in the same form. */
function deviceValues(): Map<string, Values> {
  const values = new Map<string, Values>();
  for (const device of DEVICES) {
    for (const [key, { isPath }] of Object.entries<OptionArgument>(device.arguments)) {
      const { choices } = optionDomain(device, key);
      const place = `serve ${device.name} --${kebabCase(key)}`;
      if (choices.length > 0) values.set(place, choices);
      else values.set(place, isPath === true ? 'file' : 'any');
    }
  }
  return values;
}

const VALUES: ReadonlyMap<string, Values> = new Map([...Object.entries(KNOWN), ...deviceValues()]);

/** Places that have values of their own; a test compares them with the tree. */
export const KNOWN_PLACES: readonly string[] = [...VALUES.keys()];

/** Options and arguments that say so in their help name a file or a folder. */
function valuesByName(name: string): Values {
  if (/^--(run-)?dir /.test(name)) return 'folder';
  return /[<[](path|files?)(\.\.\.)?[\]>]/.test(name) ? 'file' : 'any';
}

/** `path` has the names of the commands, without the program's. */
export function valuesOfOption(path: readonly string[], { long, flags }: Option): Values {
  return VALUES.get([...path, long].join(' ')) ?? valuesByName(flags);
}

export function valuesOfArgument(path: readonly string[], argument: Argument): Values {
  const name = `<${argument.name()}>`;
  return VALUES.get([...path, name].join(' ')) ?? valuesByName(name);
}
