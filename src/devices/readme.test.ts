/** The README of each device lists exactly the options that its definition has. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { OptionArgument } from '../kit/index.js';
import { DEVICES } from './index.js';

test.each(DEVICES.map((device) => [device.name, device] as const))('%s', (name, device) => {
  const page = readFileSync(new URL(`./${name}/README.md`, import.meta.url), 'utf8');
  const section = /^## Options$([\s\S]*?)^## /m.exec(page)![1]!;
  const rows = [...section.matchAll(/^\| `([^`]+)` \| (.*) \|$/gm)].map(([, flags, text]) => ({
    flags,
    description: text,
  }));
  const options = Object.values<OptionArgument>(device.arguments);
  expect(rows).toEqual(options.map(({ flags, description }) => ({ flags, description })));
});
