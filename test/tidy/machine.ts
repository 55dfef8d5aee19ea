/** Rules that keep the checkout the same on every machine. */
import { lineAt, type Rule } from './repo.js';

interface Lock {
  readonly packages: Record<
    string,
    { resolved?: string; optionalDependencies?: Record<string, string> }
  >;
}

/** No address of a registry, and every optional package: see scripts/complete-lock.mjs. */
export const lockIsPortable: Rule = (files) => {
  const file = files.find(({ path }) => path === 'package-lock.json');
  if (file === undefined) return ['package-lock.json: missing'];
  const { packages } = JSON.parse(file.text) as Lock;
  const fix = 'run npm run lock';
  return Object.entries(packages).flatMap(([path, entry]) => [
    ...(entry.resolved === undefined ? [] : [`package-lock.json: ${path} has resolved; ${fix}`]),
    ...Object.keys(entry.optionalDependencies ?? {})
      .filter((name) => packages[`node_modules/${name}`] === undefined)
      .map((name) => `package-lock.json: ${name} is missing; ${fix}`),
  ]);
};

const HOST = /\bregistry\.[a-z0-9-]+\.(org|com|net|io|dev)\b|^\s*registry\s*=|:_auth[T]oken/m;

/** No file names the host of a package registry: users have their own. */
export const noRegistryHosts: Rule = (files) =>
  files.flatMap(({ path, text }) => {
    const match = HOST.exec(text);
    if (match === null) return [];
    return [`${path}:${lineAt(text, match.index)}: names a package registry`];
  });

/** No file holds the path of the checkout that it was written in. */
export const noCheckoutPath =
  (root: string): Rule =>
  (files) => {
    // A checkout right below `/` has too common a name to look for.
    if (root.split('/').length < 3) return [];
    return files.flatMap(({ path, text }) => {
      const at = text.indexOf(root);
      return at === -1 ? [] : [`${path}:${lineAt(text, at)}: holds the path of this checkout`];
    });
  };
