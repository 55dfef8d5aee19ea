// Makes package-lock.json the same on every machine: no `resolved` (it would name the registry of
// whoever ran npm last), and an entry for each optional platform package. A registry that mirrors
// only some platforms makes npm leave the others out, and `npm ci` then refuses the whole file.
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Platform of an optional binary package, read from its name: `cli-linux-x64-musl`. */
export function platformOf(name) {
  const match = /-(android|darwin|linux|win32)-(arm64|x64)(?:-(musl))?$/.exec(name);
  if (match === null) return null;
  const [, os, cpu, libc] = match;
  return { cpu: [cpu], libc: libc && [libc], os: [os] };
}

/** Completes a parsed lock file in place; returns the names that were added. */
export function completeLock(lock) {
  const added = [];
  for (const [path, entry] of Object.entries(lock.packages)) {
    delete entry.resolved;
    for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
      const key = `node_modules/${name}`;
      const platform = platformOf(name);
      // Only exact versions: without the registry's list nothing else can be pinned.
      if (lock.packages[key] !== undefined || platform === null || !/^\d[\w.-]*$/.test(version)) {
        continue;
      }
      const { cpu, libc, os } = platform;
      const dev = lock.packages[path].dev === true ? { dev: true } : {};
      lock.packages[key] = { version, cpu, ...dev, ...(libc && { libc }), optional: true, os };
      added.push(name);
    }
  }
  const paths = Object.keys(lock.packages).sort((a, b) => a.localeCompare(b, 'en'));
  lock.packages = Object.fromEntries(paths.map((path) => [path, lock.packages[path]]));
  return added;
}

function main() {
  const file = fileURLToPath(new URL('../package-lock.json', import.meta.url));
  const lock = JSON.parse(readFileSync(file, 'utf8'));
  const added = completeLock(lock);
  writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
  if (added.length > 0) process.stdout.write(`package-lock.json: added ${added.join(', ')}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
