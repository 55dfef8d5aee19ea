/** The scripts that a checkout depends on: the sum of test reports, the lock file, the build. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { completeLock, platformOf } from '../../scripts/complete-lock.mjs';
import { compareBuild, isBundled, isInstalled } from '../../scripts/ensure-built.mjs';
import { renderErrorPage } from '../../scripts/error-page.mjs';
import { countReport, sumReports } from '../../scripts/sum-test-reports.mjs';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-tidy-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

function write(path: string, content: unknown): string {
  const target = join(folder, path);
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(target, typeof content === 'string' ? content : JSON.stringify(content));
  return target;
}

/** A report with one file for each list of statuses. */
function report(...files: string[][]): object {
  const failed = files.some((statuses) => statuses.includes('failed'));
  return {
    success: !failed,
    testResults: files.map((statuses, index) => ({
      name: `${index}.test.ts`,
      status: statuses.includes('failed') ? 'failed' : 'passed',
      assertionResults: statuses.map((status, at) => ({ status, fullName: `t${at}` })),
    })),
  };
}

describe('countReport', () => {
  test('passed only', () => {
    expect(countReport(report(['passed', 'passed'], ['passed']))).toEqual({
      passed: 3,
      failures: [],
    });
  });

  test.each(['failed', 'skipped', 'pending', 'todo', 'disabled'])('%s is a failure', (status) => {
    const { passed, failures } = countReport(report(['passed', status]));
    expect(passed).toBe(1);
    expect(failures).toEqual([`${status}: 0.test.ts: t1`]);
  });

  test('a file that did not load counts once', () => {
    const broken = { success: false, testResults: [{ name: 'a', status: 'failed' }] };
    Object.assign(broken.testResults[0], { assertionResults: [] });
    expect(countReport(broken).failures).toEqual(['failed: a']);
  });

  test('a hook that failed after its tests passed counts', () => {
    const broken = report(['passed']) as { testResults: { status: string }[] };
    broken.testResults[0].status = 'failed';
    expect(countReport(broken)).toEqual({ passed: 1, failures: ['failed: 0.test.ts'] });
  });

  test('a file without tests, and a run without files, count', () => {
    expect(countReport(report([])).failures).toEqual(['no tests: 0.test.ts']);
    expect(countReport(report()).failures).toEqual(['no test ran']);
  });

  test('a run that failed outside of its tests counts', () => {
    expect(countReport({ ...report(['passed']), success: false }).failures).toHaveLength(1);
  });
});

describe('sumReports', () => {
  test('adds up runs, steps and reports that are not there', () => {
    const reports = [
      { name: 'unit.json', report: report(['passed', 'passed']) },
      { name: 'peers.json', report: null },
    ];
    const { passed, failures } = sumReports(reports, ['lint']);
    expect(passed).toBe(2);
    expect(failures).toEqual(['step failed: lint', 'peers.json: no report']);
  });

  test('no reports at all is a failure', () => {
    expect(sumReports([], []).failures).toEqual(['no reports']);
  });
});

describe('sum-test-reports.mjs', () => {
  const script = fileURLToPath(new URL('../../scripts/sum-test-reports.mjs', import.meta.url));
  const run = (...args: string[]) => {
    const { status, stdout } = spawnSync(process.execPath, [script, ...args], { encoding: 'utf8' });
    return { status, lines: stdout.trimEnd().split('\n') };
  };

  test('all passed: status 0 and the sum', () => {
    const a = write('a.json', report(['passed', 'passed']));
    const b = write('b.json', report(['passed']));
    expect(run(a, b)).toEqual({ status: 0, lines: ['3 passed, 0 failed'] });
  });

  test('a skip, a failed step and a missing report: status 1, each named', () => {
    const a = write('a.json', report(['passed', 'skipped']));
    const { status, lines } = run('--failed-step', 'bench (smoke)', a, join(folder, 'gone.json'));
    expect(status).toBe(1);
    expect(lines).toEqual([
      'step failed: bench (smoke)',
      'a.json: skipped: 0.test.ts: t1',
      'gone.json: no report',
      '1 passed, 3 failed',
    ]);
  });
});

describe('complete-lock.mjs', () => {
  test('takes resolved away and adds the platforms that a registry lacks', () => {
    const lock = {
      packages: {
        '': {},
        'node_modules/tool': {
          version: '1.2.3',
          resolved: 'https://example.org/tool.tgz',
          dev: true,
          optionalDependencies: { 'tool-linux-x64-musl': '1.2.3', 'tool-linux-x64': '1.2.3' },
        },
        'node_modules/tool-linux-x64': { version: '1.2.3', integrity: 'sha512-x' },
      } as Record<string, object>,
    };
    expect(completeLock(lock)).toEqual(['tool-linux-x64-musl']);
    expect(JSON.stringify(lock)).not.toContain('resolved');
    expect(lock.packages['node_modules/tool-linux-x64-musl']).toEqual({
      version: '1.2.3',
      cpu: ['x64'],
      dev: true,
      libc: ['musl'],
      optional: true,
      os: ['linux'],
    });
    expect(completeLock(lock)).toEqual([]);
  });

  test('platformOf reads names of packages', () => {
    expect(platformOf('@a/cli-darwin-arm64')).toEqual({ os: ['darwin'], cpu: ['arm64'] });
    expect(platformOf('fsevents')).toBeNull();
  });
});

describe('isInstalled', () => {
  const lock = (version: string, more: object = {}) => ({
    packages: { '': {}, 'node_modules/a': { version }, ...more },
  });

  test('nothing installed', () => {
    write('package-lock.json', lock('1.0.0'));
    expect(isInstalled(folder)).toBe(false);
  });

  test('the same versions, without packages for other platforms', () => {
    write('package-lock.json', lock('1.0.0', { 'node_modules/b': { optional: true } }));
    write('node_modules/.package-lock.json', lock('1.0.0'));
    expect(isInstalled(folder)).toBe(true);
  });

  test('another version, or one package too few', () => {
    write('node_modules/.package-lock.json', lock('1.0.0'));
    write('package-lock.json', lock('1.0.1'));
    expect(isInstalled(folder)).toBe(false);
    write('package-lock.json', lock('1.0.0', { 'node_modules/b': { version: '1.0.0' } }));
    expect(isInstalled(folder)).toBe(false);
  });
});

describe('compareBuild', () => {
  beforeEach(() => {
    write('src/a/a.ts', '');
    write('src/a/a.test.ts', '');
    write('src/a/test-utils.ts', '');
    write('dist/a/a.js', '');
    write('dist/a/a.d.ts', '');
    write('dist/.tsbuildinfo', '');
  });

  test('one output for each source; tests have none', () => {
    expect(compareBuild(folder)).toEqual({ missing: [], orphans: [] });
  });

  test('a source without output, and output without a source', () => {
    write('src/b.ts', '');
    write('dist/gone.js', '');
    write('dist/gone.d.ts', '');
    const { missing, orphans } = compareBuild(folder);
    expect(missing).toEqual([join(folder, 'dist/b.js')]);
    expect(orphans.sort()).toEqual([join(folder, 'dist/gone.d.ts'), join(folder, 'dist/gone.js')]);
  });

  test('nothing built', () => {
    rmSync(join(folder, 'dist'), { recursive: true });
    expect(compareBuild(folder)).toEqual({ missing: [join(folder, 'dist/a/a.js')], orphans: [] });
  });
});

describe('isBundled', () => {
  const age = (path: string, seconds: number) => utimesSync(join(folder, path), seconds, seconds);
  beforeEach(() => {
    write('scripts/bundle.mjs', '');
    write('dist/a.js', '');
    write('dist/bin/vlo.js', '');
    for (const path of ['scripts/bundle.mjs', 'dist/a.js', 'dist/bin/vlo.js']) age(path, 1000);
  });

  test('as new as its modules', () => expect(isBundled(folder)).toBe(true));

  test.each(['dist/a.js', 'scripts/bundle.mjs'])('%s is newer', (path) => {
    age(path, 1001);
    expect(isBundled(folder)).toBe(false);
  });

  test('not there, or not whole', () => {
    rmSync(join(folder, 'dist/bin/vlo.js'));
    expect(isBundled(folder)).toBe(false);
  });
});

test('renderErrorPage sorts codes and keeps table cells whole', () => {
  const page = renderErrorPage({
    VLO_B: { exitStatus: 1, summary: 'This | that.' },
    VLO_A: { exitStatus: 2, summary: 'Wrong.' },
  });
  expect(page.match(/^\| <a .*$/gm)).toEqual([
    '| <a id="VLO_A"></a>`VLO_A` | 2 | Wrong. |',
    '| <a id="VLO_B"></a>`VLO_B` | 1 | This \\| that. |',
  ]);
});
