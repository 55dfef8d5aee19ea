/** Each tidy rule lets good files pass and notices the bad ones. All files are in memory. */
import { describe, expect, test } from 'vitest';
import { deviceReadmesHaveSections, devicesAreSmall, devicesHaveStandardFiles } from './devices.js';
import * as docs from './docs.js';
import * as layers from './layers.js';
import { lockIsPortable, noCheckoutPath, noRegistryHosts } from './machine.js';
import type { RepoFile, Rule } from './repo.js';
import { codeOnly } from './source.js';
import * as text from './text.js';

type Tree = Record<string, string>;

function check(rule: Rule, tree: Tree): string[] {
  return rule(Object.entries(tree).map(([path, content]): RepoFile => ({ path, text: content })));
}

/** `good` gives no problem; each of `bad` gives exactly one, which contains its key. */
function prove(name: string, rule: Rule, good: Tree, bad: Record<string, Tree>): void {
  describe(name, () => {
    test('good', () => expect(check(rule, good)).toEqual([]));
    test.each(Object.entries(bad))('bad: %s', (problem, tree) => {
      expect(check(rule, { ...good, ...tree })).toEqual([expect.stringContaining(problem)]);
    });
  });
}

prove(
  'layers import downward only',
  layers.layersImportDownward,
  {
    'src/index.ts': "export * from './cli/vlo.js'; export * from './errors.js';",
    'src/errors.ts': "import { inspect } from 'node:util';",
    'src/virtio/ring.ts': "import { map } from '../native/map.js'; import './chain.js';",
    'src/virtio/ring.test.ts': "import { mock } from '../testing/index.js';",
    'src/devices/index.ts': "export * from './blk/index.js'; export * from './rng/index.js';",
    'src/devices/blk/device.ts': "import '../../kit/index.js'; import './wire.js';",
    'src/testing/mock.ts': "import '../kit/index.js';",
    'test/conformance/a.test.ts': "import '../../src/cli/vlo.js';",
  },
  {
    'src/virtio/bad.ts:2: virtio must not import vhost-user': {
      'src/virtio/bad.ts': "import './ring.js';\nimport '../vhost-user/index.js';",
    },
    'native must not import virtio': {
      'src/native/bad.ts': "import type { Ring } from '../virtio/ring.js';",
    },
    'errors must not import native': { 'src/errors.ts': "export * from './native/index.js';" },
    'kit must not import devices': { 'src/kit/bad.ts': "await import('../devices/blk/index.js');" },
    'virtio must not import cli': {
      'src/virtio/bad.ts': "new Worker(new URL('../cli/vlo.js', import.meta.url));",
    },
    'vhost-user must not import kit': {
      'src/vhost-user/bad.ts': "let x: import('../kit/index.js').Kit;",
    },
    'its sibling devices/blk': { 'src/devices/rng/device.ts': "import '../blk/wire.js';" },
    'testing must not import devices': { 'src/testing/bad.ts': "import '../devices/index.js';" },
    'from outside of src': { 'src/cli/bad.ts': "import '../../scripts/error-page.mjs';" },
    'src/utils is no layer': { 'src/utils/bad.ts': '' },
    'virtio must not import devices': {
      'src/virtio/ring.test.ts': "import '../devices/index.js';",
    },
  },
);

prove(
  'koffi is imported in src/native only',
  layers.koffiOnlyInNative,
  { 'src/native/libc.ts': "import koffi from 'koffi';", 'src/kit/a.ts': "// import 'koffi'" },
  {
    'src/virtio/a.ts:1': { 'src/virtio/a.ts': "import koffi from 'koffi';" },
    'bench/a.mjs:1': { 'bench/a.mjs': "const koffi = require('koffi');" },
  },
);

prove(
  'imports and dependencies match',
  layers.dependenciesMatchImports,
  {
    'package.json': '{"dependencies":{"koffi":"1.0.0","@a/b":"1.0.0"}}',
    'src/a.ts': "import 'koffi'; import 'node:fs'; import '@a/b/c'; import './b.js';",
    'src/a.test.ts': "import 'vitest';",
  },
  {
    'src/b.ts:1: vitest is no dependency': { 'src/b.ts': "import 'vitest';" },
    'nothing in src/ imports @a/b': { 'src/a.ts': "import 'koffi';" },
  },
);

prove(
  'no dead files',
  layers.noDeadFiles,
  {
    'package.json': `{"bin":{"vlo":"./dist/bin/vlo.js"},
      "exports":{"./virtio":{"default":"./dist/virtio/index.js"},"./package.json":"./package.json"}}`,
    'src/index.ts': "export * from './errors.js';",
    'src/errors.ts': '',
    'src/cli/vlo.ts': "const url = new URL('./worker.js', import.meta.url);",
    'src/cli/worker.ts': '',
    'src/virtio/index.ts': "export type { Ring } from './ring.js';",
    'src/virtio/ring.ts': '',
    'src/virtio/ring.test.ts': "import './ring.js'; import './test-utils.js';",
    'src/virtio/test-utils.ts': '',
    'src/kit/used-by-test.ts': '',
    'test/conformance/a.test.ts': "import '../../src/kit/used-by-test.js';",
  },
  {
    'src/hal/dead.ts: dead file': { 'src/hal/dead.ts': '' },
    'src/hal/own.ts: dead file': {
      'src/hal/own.ts': '',
      'src/hal/own.test.ts': "import './own.js';",
    },
    'src/kit/used-by-test.ts: dead file': { 'test/conformance/a.test.ts': '' },
    'src/cli/worker.ts: dead file': {
      'src/cli/vlo.ts': "// new URL('./worker.js', import.meta.url)",
    },
  },
);

const lines = (count: number): string => 'x;\n'.repeat(count);
const functionOf = (count: number): string => `function f() {\n${lines(count - 2)}}\n`;

prove(
  'files are short',
  text.filesAreShort({ 'src/table.ts': 'one table' }),
  { 'src/a.ts': lines(500), 'src/table.ts': lines(501), 'docs/a.md': lines(900) },
  {
    'src/b.ts: 501 lines': { 'src/b.ts': lines(501) },
    '.ci/run: 600 lines': { '.ci/run': lines(600) },
    'src/table.ts: needs its allow-list entry no more': { 'src/table.ts': lines(500) },
  },
);

prove(
  'functions are short',
  text.functionsAreShort({}),
  {
    'src/a.ts': functionOf(70) + functionOf(70),
    'test/a.test.ts': `describe('a', () => {\n${lines(90)}});`,
  },
  {
    'src/b.ts:2: f has 71 lines': { 'src/b.ts': `\n${functionOf(71)}` },
    'src/c.ts:1: run has 80 lines': { 'src/c.ts': `class C { run() {\n${lines(78)}} }` },
    'src/d.ts:1: function has 80 lines': { 'src/d.ts': `const d = () => {\n${lines(78)}};` },
  },
);

prove(
  'lines are short',
  text.linesAreShort,
  {
    'src/a.ts': `${'x'.repeat(100)}\nfail('${'x'.repeat(100)}');\n// https://a.org/${'x'.repeat(90)}`,
    'docs/a.md': 'x'.repeat(300),
  },
  {
    'src/b.ts:2: 101 columns': { 'src/b.ts': `\n${'x'.repeat(101)}` },
    'scripts/b.sh:1: 110 columns': { 'scripts/b.sh': `# ${'x'.repeat(108)}` },
  },
);

prove(
  'no banned calls',
  text.noBannedCalls({ 'src/virtio/features.ts': 'negotiated once' }),
  {
    'src/virtio/features.ts': 'BigInt(1);',
    'src/virtio/ring.ts': '// BigInt( and koffi.decode( are slow\nconst a = "new Error("; 1n;',
    'src/vhost-user/a.ts': 'BigInt(1);',
    'src/cli/vlo.ts': 'process.exit(1);',
    'src/errors.ts': 'new Error("x");',
    'src/a.test.ts': 'new Error("x");',
  },
  {
    'src/native/a.ts:2: koffi.decode: read through': { 'src/native/a.ts': '\nkoffi.decode(p);' },
    'src/hal/a.ts:1: process.exit: throw': { 'src/hal/a.ts': 'process.exit(1);' },
    'src/devices/blk/device.ts:1: BigInt: split': { 'src/devices/blk/device.ts': 'BigInt(1);' },
    'BigUint64Array: split': { 'src/virtio/ring.ts': 'new BigUint64Array(1);' },
    'getBigUint64: split': { 'src/kit/a.ts': 'view.getBigUint64(0);' },
    'src/hal/a.ts:1: new Error: throw': { 'src/hal/a.ts': 'throw new Error(`x`);' },
    '.terminate: wake': { 'src/kit/a.ts': 'worker.terminate();' },
    'execSync: call execFileSync': { 'scripts/a.mjs': 'execSync("ls");' },
    'src/virtio/features.ts: needs its allow-list': { 'src/virtio/features.ts': '' },
  },
);

prove(
  'no leftovers',
  text.noLeftovers,
  {
    'src/cli/vlo.ts': 'console.log("hello");',
    'src/a.ts': "// console.log( and debugger\nmkdtemp('vlo-XXXXXX'); reader.skip(4);",
    'test/a.test.ts': "context.skip('no /dev/kvm here'); context.skip(!here, `no device`);",
    'docs/a.md': 'A title\n=======\n',
  },
  {
    'src/b.ts:2: TODO': { 'src/b.ts': '\n// TODO: later' },
    'src/b.ts:1: FIXME': { 'src/b.ts': 'f(); // FIXME' },
    'scripts/b.sh:1: XXX': { 'scripts/b.sh': '# XXX' },
    'src/b.ts:1: console.log(': { 'src/b.ts': 'console.log(1);' },
    'src/b.ts:1: debugger': { 'src/b.ts': 'debugger;' },
    'test/b.test.ts:1: .only(': { 'test/b.test.ts': "it.only('a', f);" },
    'test/b.test.ts:1: describe.skipIf': { 'test/b.test.ts': "describe.skipIf(x)('a', f);" },
    'test/b.test.ts:1: context.skip(': { 'test/b.test.ts': 'context.skip();' },
    'test/b.test.ts:1: ctx.skip(': { 'test/b.test.ts': "ctx.skip(!here);\nf('x');" },
    'docs/a.md:1: <<<<<<<': { 'docs/a.md': '<<<<<<< ours\n' },
  },
);

const device = (name: string): Tree =>
  Object.fromEntries(
    ['index.ts', 'wire.ts', 'device.ts', 'driver.ts', 'backend-null.ts', 'device.test.ts']
      .map((file) => [`src/devices/${name}/${file}`, ''])
      .concat([[`src/devices/${name}/README.md`, '']]),
  );

test('no device at all is fine', () => {
  expect(check(devicesHaveStandardFiles, { 'src/devices/index.ts': '' })).toEqual([]);
});
prove('devices have the standard files', devicesHaveStandardFiles, device('blk'), {
  'src/devices/rng/: wire.ts is missing': omit(device('rng'), 'wire.ts'),
  'src/devices/rng/: backend*.ts is missing': omit(device('rng'), 'backend-null.ts'),
  'src/devices/rng/: README.md is missing': omit(device('rng'), 'README.md'),
});

function omit(tree: Tree, name: string): Tree {
  return Object.fromEntries(Object.entries(tree).filter(([path]) => !path.endsWith(`/${name}`)));
}

const statements = (count: number): string =>
  `function f() {\n${'  work(); // Hard.\n\n  // Why.\n'.repeat(count)}}\n`;
const HELPED = "import { g } from './help.js';\nimport { h } from './frame-codec.js';\n";
prove(
  'devices are small',
  devicesAreSmall({ big: 'for a reason' }),
  {
    'src/devices/rng/device.ts': HELPED + statements(100),
    'src/devices/rng/help.ts': statements(65),
    'src/devices/rng/frame-codec.ts': statements(100), // How bytes lie, and
    'src/devices/rng/backend-null.ts': statements(200), // what is behind it, are apart.
    'src/devices/big/device.ts': statements(200),
  },
  {
    'src/devices/rng/: 166 lines of logic; at most 165': {
      'src/devices/rng/device.ts': HELPED + statements(100),
      'src/devices/rng/help.ts': statements(66),
      'src/devices/big/device.ts': statements(200),
    },
    'allow.ts: big is not large any more': { 'src/devices/big/device.ts': statements(10) },
  },
);

const README = `# rng\n\n## What it is\n\nEntropy.\n\n## Options\n\n| a |\n
## Example with QEMU\n\n\`\`\`sh\nqemu\n\`\`\`\n\n## Limits\n\nNone.\n`;
const readmeWithout = (part: string): Tree => ({
  'src/devices/rng/README.md': README.replace(part, ''),
});
prove(
  'READMEs of devices have their sections',
  deviceReadmesHaveSections,
  { 'src/devices/blk/README.md': README, 'README.md': '' },
  {
    'README.md: a section "## Limits"': readmeWithout('## Limits'),
    '"## Options" with text is missing': readmeWithout('| a |'),
    '"## What it is"': readmeWithout('## What it is'),
    '"## Example with QEMU"': readmeWithout('## Example with QEMU'),
  },
);

prove(
  'links resolve',
  docs.linksResolve,
  {
    'README.md':
      '[a](docs/a.md) [b](docs/a.md#the-b-way) [c](https://a.org) [d](docs/) [e](#top)\n# Top',
    'docs/a.md': '# A\n\n## The `b` way!\n\n[up](../README.md)\n```\n[x](nowhere)\n```\n`[x](y)`',
  },
  {
    'docs/b.md:2: gone.md leads nowhere': { 'docs/b.md': '\n[x](gone.md)' },
    'docs/a.md has no heading #c': { 'docs/b.md': '[x](a.md#c)' },
    'docs/b.md:1: ../x leads nowhere': { 'docs/b.md': '[x]: ../x' },
  },
);

prove(
  'docs are indexed',
  docs.docsAreIndexed,
  { 'docs/README.md': '[a](guide/a.md)', 'docs/guide/a.md': '', 'src/b.md': '' },
  { 'docs/guide/lost.md: no link': { 'docs/guide/lost.md': '' } },
);

prove(
  'error codes are documented and used',
  docs.errorCodesAreDocumented(['VLO_A', 'VLO_B']),
  { 'docs/reference/errors.md': '`VLO_A` `VLO_B`', 'src/a.ts': "f('VLO_A'); f('VLO_B');" },
  {
    'VLO_B is missing': { 'docs/reference/errors.md': '`VLO_A`' },
    'VLO_C is no error code': { 'docs/reference/errors.md': '`VLO_A` `VLO_B` `VLO_C`' },
    'nothing in src/ throws VLO_B': { 'src/a.ts': "f('VLO_A');", 'src/a.test.ts': "'VLO_B'" },
  },
);

prove(
  'the page of errors is current',
  docs.errorPageIsCurrent('# Errors\n'),
  { 'docs/reference/errors.md': '# Errors\n' },
  { 'run npm run docs:errors': { 'docs/reference/errors.md': '# Old\n' } },
);

prove(
  'dependencies are explained',
  docs.dependenciesAreExplained,
  {
    'package.json': '{"dependencies":{"a":"1"},"devDependencies":{"@b/c":"1"}}',
    'docs/internals/dependencies.md': '| `a` | why |\n| `@b/c` | why |\n',
  },
  {
    'say why @b/c is there': { 'docs/internals/dependencies.md': '| `a` | why |\n' },
    'a is gone': { 'package.json': '{"devDependencies":{"@b/c":"1"}}' },
  },
);

prove(
  'the lock file is portable',
  lockIsPortable,
  {
    'package-lock.json':
      '{"packages":{"":{},"node_modules/a":{"optionalDependencies":{"b":"1"}},"node_modules/b":{}}}',
  },
  {
    'node_modules/a has resolved': {
      'package-lock.json': `{"packages":{"node_modules/a":{"resolved":${'"https://x/a.tgz"'}}}}`,
    },
    'b is missing': {
      'package-lock.json': '{"packages":{"node_modules/a":{"optionalDependencies":{"b":"1"}}}}',
    },
  },
);

const host = ['registry', 'npmjs', 'org'].join('.');
prove(
  'no registry hosts',
  noRegistryHosts,
  { 'docs/a.md': 'A registry. The device registry.find(x), registry.all.map(y) and registry.ts.' },
  {
    'docs/b.md:2: names a package registry': { 'docs/b.md': `\nhttps://${host}/a` },
    '.npmrc:1: names a package registry': { '.npmrc': 'registry=http://localhost:4873' },
  },
);

prove(
  'no path of this checkout',
  noCheckoutPath('/home/me/checkout'),
  { 'docs/a.md': '/home/you/checkout' },
  { 'docs/b.md:1: holds the path': { 'docs/b.md': 'cd /home/me/checkout' } },
);

test('codeOnly blanks comments and strings, keeps offsets and the code in templates', () => {
  // A name, so that the text of a template can stand in a template.
  const hole = ['$', '{d}'].join('');
  const source = `f(/* 'a */ 'b', \`c ${hole} \u{1f600}\`); // e\nconst r = /x'y/; g();`;
  const code = codeOnly({ path: 'a.ts', text: source });
  expect(code).toHaveLength(source.length);
  expect(code.replace(/\s+/g, '')).toBe("f(,d);constr=/x'y/;g();");
});
