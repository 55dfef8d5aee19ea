// Makes a checkout ready to run, whatever state it is in: installs the dependencies where they are
// missing or not those of package-lock.json, and builds what changed since the last build. Runs
// before `npm test` and others, so that each works right after `git clone`; hence Node's modules
// only.
//
//   node scripts/ensure-built.mjs [--clean]      --clean: build from nothing
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The lock file that npm keeps inside node_modules: what is really installed. */
const INSTALLED = 'node_modules/.package-lock.json';

function readPackages(path) {
  return JSON.parse(readFileSync(path, 'utf8')).packages;
}

/**
 * True if node_modules holds what package-lock.json asks for. Compares versions and not times:
 * times change with a checkout of another branch and back.
 * @param {string} root
 */
export function isInstalled(root) {
  if (!existsSync(join(root, INSTALLED))) return false;
  const wanted = readPackages(join(root, 'package-lock.json'));
  const installed = readPackages(join(root, INSTALLED));
  return Object.entries(wanted).every(([path, { version, optional, peer }]) => {
    if (path === '') return true;
    // Packages for other platforms stay away, and that is right.
    if (installed[path] === undefined) return optional === true || peer === true;
    return installed[path].version === version;
  });
}

function filesBelow(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
}

const isSource = (path) => /\.ts$/.test(path) && !/\.test\.ts$|[/]test-utils\.ts$/.test(path);

/**
 * What dist/ lacks and what it has too much of, compared with the files of src/.
 * @param {string} root
 * @returns {{ missing: string[], orphans: string[] }}
 */
export function compareBuild(root) {
  const [src, dist] = [join(root, 'src'), join(root, 'dist')];
  const sources = filesBelow(src).filter(isSource);
  const wanted = new Set(sources.map((path) => path.replace(src, dist).replace(/\.ts$/, '.js')));
  return {
    missing: [...wanted].filter((path) => !existsSync(path)),
    orphans: filesBelow(dist)
      .filter((path) => !path.startsWith(join(dist, 'bin/')))
      .filter((path) => /\.(js|d\.ts)$/.test(path))
      .filter((path) => !wanted.has(path.replace(/\.d\.ts$/, '.js'))),
  };
}

/**
 * True while the programs of dist/bin/ are as new as all that they are made from.
 * @param {string} root
 */
export function isBundled(root) {
  const dist = join(root, 'dist');
  const made = statSync(join(dist, 'bin/vlo.js'), { throwIfNoEntry: false })?.mtimeMs;
  if (made === undefined) return false;
  return [...filesBelow(dist), join(root, 'scripts/bundle.mjs')]
    .filter((path) => /\.m?js$/.test(path) && !path.startsWith(join(dist, 'bin/')))
    .every((path) => statSync(path).mtimeMs <= made);
}

/** Runs a command in the checkout; one that fails ends this script. */
function run(root, command, ...args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (status === 0) return;
  const reason = error === undefined ? '' : `: ${error.message}`;
  process.stderr.write(`${[command, ...args].join(' ')} failed${reason}\n`);
  process.exit(1);
}

function install(root) {
  process.stderr.write('Installing the dependencies (npm ci)...\n');
  // `--include=dev`: the build needs them even where NODE_ENV says production.
  run(root, 'npm', 'ci', '--silent', '--include=dev');
}

function build(root) {
  const { orphans, missing } = compareBuild(root);
  for (const path of orphans) rmSync(path);
  if (missing.length > 0) {
    process.stderr.write('Building (tsc -b)...\n');
    // tsc believes its own record and would not write a file again that someone removed.
    rmSync(join(root, 'dist/.tsbuildinfo'), { force: true });
  }
  // Without changes this takes a quarter of a second; and it knows, where times of files do not
  // tell, that the last build ended with errors.
  run(root, process.execPath, 'node_modules/typescript/bin/tsc', '-b');
  if (!isBundled(root)) run(root, process.execPath, 'scripts/bundle.mjs');
}

function main() {
  const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');
  if (process.argv.includes('--clean'))
    rmSync(join(root, 'dist'), { recursive: true, force: true });
  if (!isInstalled(root)) install(root);
  build(root);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
