/** Rules about device folders: knowing one device is knowing all. */

import { deviceOf } from './layers.js';
import type { AllowList, RepoFile, Rule } from './repo.js';
import { importsOf, logicLinesOf, resolveImport } from './source.js';

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

/** Most lines of logic that a device has: where one needs more, the kit lacks something. */
const LOGIC_LINES_MAX = 165;
/** What tells how bytes lie, and what is behind the device, is not its logic. */
const IS_APART = /\/(wire|[\w-]+-codec|backend[\w-]*)\.ts$/;

/** Lines of logic in a device: in `device.ts` and the files that it needs for it. */
export function deviceLogic(files: readonly RepoFile[], device: string): number {
  const folder = `src/devices/${device}/`;
  const wanted = [`${folder}device.ts`];
  for (const path of wanted) {
    const file = files.find((candidate) => candidate.path === path);
    if (file === undefined) continue;
    for (const { specifier } of importsOf(file)) {
      const target = resolveImport(path, specifier);
      const isOwn = target?.startsWith(folder) === true && !IS_APART.test(target);
      if (isOwn && !wanted.includes(target)) wanted.push(target);
    }
  }
  const own = files.filter(({ path }) => wanted.includes(path));
  return own.reduce((sum, file) => sum + logicLinesOf(file), 0);
}

/** A device stays small: what others could use as well belongs into the kit. */
export const devicesAreSmall =
  (allowed: AllowList): Rule =>
  (files) => {
    const found = files.map(({ path }) => deviceOf(path)).filter((name) => name !== null);
    return [...new Set([...found, ...Object.keys(allowed)])].flatMap((name) => {
      const count = deviceLogic(files, name);
      const isLong = count > LOGIC_LINES_MAX;
      const isAllowed = allowed[name] !== undefined;
      if (isLong && !isAllowed) {
        return [`src/devices/${name}/: ${count} lines of logic; at most ${LOGIC_LINES_MAX}`];
      }
      return isAllowed && !isLong ? [`allow.ts: ${name} is not large any more`] : [];
    });
  };
