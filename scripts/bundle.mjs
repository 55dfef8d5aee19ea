// Puts the programs of dist/ together into a few files in dist/bin/: a program of 150 modules
// spends half of its start on finding them. What a command loads only when it is run stays a file
// of its own. The library (dist/index.js and the rest) stays as tsc made it, and so do packages.
//
//   node scripts/bundle.mjs
import { chmodSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

/** What is started as a program. All land in one folder, where they find each other by name. */
const PROGRAMS = [
  'cli/vlo.js',
  'hal/device-main.js',
  'hal/demo-probe.js',
  'transports/vduse/vdpa-main.js',
];

const dist = fileURLToPath(new URL('../dist', import.meta.url));
const bin = join(dist, 'bin');
rmSync(bin, { recursive: true, force: true });
const bundle = await rolldown({
  input: PROGRAMS.map((path) => join(dist, path)),
  platform: 'node',
  external: /^[^./]/,
});
// All files as deep as the modules were: each finds package.json and kernel/ two folders above.
await bundle.write({ dir: bin, chunkFileNames: 'part-[name].js', comments: false });
chmodSync(join(bin, 'vlo.js'), 0o755);
