/** The checkout against every tidy rule. The rules themselves are tested in rules.test.ts. */
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { renderErrorPage } from '../../scripts/error-page.mjs';
import { ERROR_TABLE } from '../../src/errors.js';
import * as allow from './allow.js';
import { deviceReadmesHaveSections, devicesAreSmall, devicesHaveStandardFiles } from './devices.js';
import * as docs from './docs.js';
import * as layers from './layers.js';
import { lockIsPortable, noCheckoutPath, noRegistryHosts } from './machine.js';
import { type Rule, readRepo } from './repo.js';
import * as text from './text.js';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const files = readRepo(root);

const RULES: Record<string, Rule> = {
  'layers import downward only': layers.layersImportDownward,
  'koffi is imported in src/native only': layers.koffiOnlyInNative,
  'imports and dependencies match': layers.dependenciesMatchImports,
  'no dead files': layers.noDeadFiles,
  'files are short': text.filesAreShort(allow.longFiles),
  'functions are short': text.functionsAreShort(allow.longFunctions),
  'lines are short': text.linesAreShort,
  'no banned calls': text.noBannedCalls(allow.bigInt),
  'no leftovers': text.noLeftovers,
  'devices have the standard files': devicesHaveStandardFiles,
  'devices are small': devicesAreSmall(allow.largeDevices),
  'READMEs of devices have their sections': deviceReadmesHaveSections,
  'links resolve': docs.linksResolve,
  'docs are indexed': docs.docsAreIndexed,
  'error codes are documented and used': docs.errorCodesAreDocumented(Object.keys(ERROR_TABLE)),
  'the page of errors is current': docs.errorPageIsCurrent(renderErrorPage(ERROR_TABLE)),
  'dependencies are explained': docs.dependenciesAreExplained,
  'the lock file is portable': lockIsPortable,
  'no registry hosts': noRegistryHosts,
  'no path of this checkout': noCheckoutPath(root),
};

test.each(Object.entries(RULES))('%s', (_name, rule) => {
  expect(rule(files)).toEqual([]);
});

test('the checkout was read', () => {
  expect(files.map(({ path }) => path)).toEqual(
    expect.arrayContaining(['package.json', 'src/errors.ts', 'test/tidy/tidy.test.ts']),
  );
});
