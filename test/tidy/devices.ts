/** Rules about device folders: knowing one device is knowing all. */

import { deviceOf } from './layers.js';
import type { Rule } from './repo.js';

const STANDARD_FILES: readonly { name: string; pattern: RegExp }[] = [
  { name: 'index.ts', pattern: /^index\.ts$/ },
  { name: 'wire.ts', pattern: /^wire\.ts$/ },
  { name: 'device.ts', pattern: /^device\.ts$/ },
  { name: 'driver.ts', pattern: /^driver\.ts$/ },
  { name: 'backend*.ts', pattern: /^backend[\w-]*\.ts$/ },
  { name: 'device.test.ts', pattern: /^device\.test\.ts$/ },
  { name: 'README.md', pattern: /^README\.md$/ },
];

const README_SECTIONS = ['What it is', 'Options', 'Example with QEMU', 'Limits'];

/** Each folder of src/devices/ has the same files. */
export const devicesHaveStandardFiles: Rule = (files) => {
  const devices = new Map<string, string[]>();
  for (const { path } of files) {
    const device = deviceOf(path);
    if (device === null) continue;
    const name = path.slice(`src/devices/${device}/`.length);
    devices.set(device, [...(devices.get(device) ?? []), name]);
  }
  return [...devices].flatMap(([device, names]) =>
    STANDARD_FILES.filter(({ pattern }) => !names.some((name) => pattern.test(name))).map(
      ({ name }) => `src/devices/${device}/: ${name} is missing`,
    ),
  );
};

/** The README of each device answers the same questions under the same headings. */
export const deviceReadmesHaveSections: Rule = (files) =>
  files
    .filter(({ path }) => /^src\/devices\/[^/]+\/README\.md$/.test(path))
    .flatMap(({ path, text }) =>
      README_SECTIONS.filter(
        (section) => !new RegExp(`^##+ ${section}\\b[^\\n]*\\n+(?!#)\\S`, 'im').test(text),
      ).map((section) => `${path}: a section "## ${section}" with text is missing`),
    );
