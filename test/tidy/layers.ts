/** Rules about who may import whom. The picture is in docs/internals/layers.md. */
import type { Rule } from './repo.js';
import { isScript, isTest, isTypeScript, type RepoFile } from './repo.js';
import { importsOf, resolveImport } from './source.js';

/** From bottom to top; a layer imports only itself and the layers below it. */
export const LAYERS: readonly string[] = [
  'errors',
  'native',
  'virtio',
  'fuse',
  'vhost-user',
  'kit',
  'devices',
  'testing',
  'present',
  'transports',
  'adapter',
  'hal',
  'evaluate',
  'cli',
  'index',
];

/** The layer of a source file: its folder in src/, or its name if it lies in src/ itself. */
export function layerOf(path: string): string | null {
  return /^src\/([^/.]+)/.exec(path)?.[1] ?? null;
}

/** The device folder that a file lies in. */
export function deviceOf(path: string): string | null {
  return /^src\/devices\/([^/]+)\//.exec(path)?.[1] ?? null;
}

/** Why `from` must not import `to`, or null if it may. */
function forbidden(from: string, to: string): string | null {
  const [source, target] = [layerOf(from), layerOf(to)];
  const sourceIndex = LAYERS.indexOf(source ?? '');
  const targetIndex = LAYERS.indexOf(target ?? '');
  if (sourceIndex === -1) return `src/${source} is no layer; see docs/internals/layers.md`;
  // The package's own version stands in one place.
  if (to === 'package.json') return null;
  if (target === null) return 'src/ must not import from outside of src/';
  // Unknown targets are reported once, at the file itself.
  if (targetIndex === -1) return null;
  if (isTest(from) && target === 'testing') return null;
  if (targetIndex > sourceIndex) return `${source} must not import ${target}, a layer above it`;
  if (source === 'testing' && target === 'devices') {
    return 'testing must not import devices: it has to serve devices that it does not know';
  }
  const [device, other] = [deviceOf(from), deviceOf(to)];
  if (device !== null && other !== null && device !== other) {
    return `devices/${device} must not import its sibling devices/${other}; share through kit`;
  }
  return null;
}

const sources = (files: readonly RepoFile[]): RepoFile[] =>
  files.filter((file) => file.path.startsWith('src/') && isTypeScript(file.path));

/** Layers import downward only, and a device imports no other device. */
export const layersImportDownward: Rule = (files) =>
  sources(files).flatMap((file) => {
    const layer = layerOf(file.path) ?? '';
    if (!LAYERS.includes(layer)) {
      return [`${file.path}: src/${layer} is no layer; see docs/internals/layers.md`];
    }
    return importsOf(file).flatMap(({ specifier, line }) => {
      const target = resolveImport(file.path, specifier);
      const reason = target === null ? null : forbidden(file.path, target);
      return reason === null ? [] : [`${file.path}:${line}: ${reason}`];
    });
  });

/** A peer of the tests, a foreign library that is called through koffi: not our code's business. */
const KOFFI_PEER = 'test/peers/support/blkio-client.mjs';

/** Only native/ knows koffi: a mistake in a foreign call is a crash, so they stay in one place. */
export const koffiOnlyInNative: Rule = (files) =>
  files
    .filter(({ path }) => isScript(path) && !path.startsWith('src/native/') && path !== KOFFI_PEER)
    .flatMap((file) =>
      importsOf(file)
        .filter(({ specifier }) => /^koffi(\/|$)/.test(specifier))
        .map(({ line }) => `${file.path}:${line}: import from src/native instead of koffi`),
    );

interface PackageJson {
  readonly bin?: Record<string, string>;
  readonly exports?: Record<string, string | Record<string, string>>;
  readonly dependencies?: Record<string, string>;
  readonly devDependencies?: Record<string, string>;
}

export function packageOf(files: readonly RepoFile[]): PackageJson {
  const file = files.find(({ path }) => path === 'package.json');
  return file === undefined ? {} : JSON.parse(file.text);
}

/** The product imports its own files, Node's modules, and all the declared dependencies. */
export const dependenciesMatchImports: Rule = (files) => {
  const declared = Object.keys(packageOf(files).dependencies ?? {});
  const used = new Set<string>();
  const problems = sources(files)
    .filter((file) => !isTest(file.path))
    .flatMap((file) =>
      importsOf(file).flatMap(({ specifier, line }) => {
        if (/^(\.|node:|https?:)/.test(specifier)) return [];
        const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
        used.add(name);
        if (declared.includes(name)) return [];
        return [`${file.path}:${line}: ${name} is no dependency in package.json`];
      }),
    );
  const idle = declared.filter((name) => !used.has(name));
  return [...problems, ...idle.map((name) => `package.json: nothing in src/ imports ${name}`)];
};

/** Source files that the package offers: its exports and its commands. */
function productRoots(files: readonly RepoFile[]): string[] {
  const { bin = {}, exports = {} } = packageOf(files);
  const targets = Object.values(exports).map((target) =>
    typeof target === 'string' ? target : (target.default ?? ''),
  );
  return [
    'src/index.ts',
    ...targets.map((target) => target.replace(/^\.\/dist\/(.*)\.js$/, 'src/$1.ts')),
    // scripts/bundle.mjs makes them from the command of the same name.
    ...Object.values(bin).map((target) => target.replace(/^.*\/(.*)\.js$/, 'src/cli/$1.ts')),
  ];
}

/**
 * Every source file is used by the product or by a test of something else. The test beside a file
 * does not count: a module that only its own test knows is dead.
 */
export const noDeadFiles: Rule = (files) => {
  const byPath = new Map(files.map((file) => [file.path, file]));
  const tests = files.filter(({ path }) => isScript(path) && isTest(path));
  const live = new Set<string>();
  const queue = [...productRoots(files), ...tests.map(({ path }) => path)];
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    const file = byPath.get(path);
    if (file === undefined || live.has(path) || !isScript(path)) continue;
    live.add(path);
    const own = path.replace(/\.test\.ts$/, '.ts');
    for (const { specifier } of importsOf(file)) {
      const target = resolveImport(path, specifier);
      if (target !== null && (target !== own || target === path)) queue.push(target);
    }
  }
  return sources(files)
    .filter(({ path }) => !live.has(path))
    .map(({ path }) => `${path}: dead file: only its own test, or nothing, imports it`);
};
