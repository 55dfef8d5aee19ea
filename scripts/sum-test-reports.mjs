// Sums the JSON reports of vitest into one verdict: node sum-test-reports.mjs [--failed-step NAME]
// REPORT.json...  Prints what failed and, as its last line, `N passed, N failed`. A test that was
// skipped counts as failed: in CI everything that a test needs is there, so it should have run.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/**
 * Counts one parsed report.
 * @param {any} report
 * @returns {{ passed: number, failures: string[] }}
 */
export function countReport(report) {
  let passed = 0;
  const failures = [];
  for (const file of report.testResults ?? []) {
    for (const test of file.assertionResults) {
      if (test.status === 'passed') passed += 1;
      else failures.push(`${test.status}: ${file.name}: ${test.fullName}`);
    }
    // A file that could not be loaded, or a hook that threw, has no failed test to show for it.
    const failedTests = file.assertionResults.filter((test) => test.status === 'failed');
    if (file.status === 'failed' && failedTests.length === 0) failures.push(`failed: ${file.name}`);
    else if (file.assertionResults.length === 0) failures.push(`no tests: ${file.name}`);
  }
  if (passed + failures.length === 0) failures.push('no test ran');
  // An error outside of all tests, or a test that the report lost.
  if (report.success !== true && failures.length === 0) failures.push('failed: the run as a whole');
  return { passed, failures };
}

/**
 * Adds up parsed reports (null for one that could not be read) and steps that failed.
 * @param {{ name: string, report: any }[]} reports
 * @param {string[]} failedSteps
 */
export function sumReports(reports, failedSteps) {
  let passed = 0;
  const failures = failedSteps.map((step) => `step failed: ${step}`);
  for (const { name, report } of reports) {
    const count = report === null ? { passed: 0, failures: ['no report'] } : countReport(report);
    passed += count.passed;
    failures.push(...count.failures.map((failure) => `${name}: ${failure}`));
  }
  if (reports.length === 0) failures.push('no reports');
  return { passed, failures };
}

function readReport(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return null;
  }
}

function main(args) {
  const reports = [];
  const failedSteps = [];
  for (let index = 0; index < args.length; index += 1) {
    const name = args[index];
    if (name === '--failed-step') {
      index += 1;
      failedSteps.push(args[index]);
    } else {
      reports.push({ name: name.replace(/^.*\//, ''), report: readReport(name) });
    }
  }
  const { passed, failures } = sumReports(reports, failedSteps);
  const lines = [...failures, `${passed} passed, ${failures.length} failed`];
  process.stdout.write(`${lines.join('\n')}\n`);
  process.exitCode = failures.length === 0 ? 0 : 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main(process.argv.slice(2));
