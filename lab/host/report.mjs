/** The outcome of runs as a JSON report of the form that vitest writes: CI sums all of them. */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';

/**
 * Adds a run to the report, which is made if it is not there.
 * @param {string} path
 * @param {{ title: string, results: string, isClean: boolean, isGood: boolean }} run `results` is
 *   the text of the job's results, empty when it wrote none
 */
export function addToReport(path, { title, results, isClean, isGood }) {
  const report = existsSync(path)
    ? JSON.parse(readFileSync(path, 'utf8'))
    : { success: true, testResults: [] };
  const checks = results === '' ? [] : JSON.parse(results).checks;
  const assertionResults = [
    ...checks.map(({ name, outcome }) => ({
      fullName: name,
      status: outcome === 'ok' ? 'passed' : outcome,
    })),
    { fullName: 'kernel log clean', status: isClean ? 'passed' : 'failed' },
  ];
  const status = isGood ? 'passed' : 'failed';
  report.testResults.push({ name: title, status, assertionResults });
  report.success &&= isGood;
  writeFileSync(path, JSON.stringify(report));
}
