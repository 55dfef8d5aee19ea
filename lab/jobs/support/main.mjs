/** What the guest runs: `node lab/jobs/support/main.mjs JOB ARGUMENTS...`. */

import { readFileSync } from 'node:fs';
import { check, finish, print } from './checks.mjs';
import { killPrograms } from './programs.mjs';
import { dumpBlockedTasks, stuckTasks } from './system.mjs';

const [job, ...words] = process.argv.slice(2);
/** The job ends itself a little before the host ends the guest: it can say where it hangs. */
const LIMIT_SHARE = 0.9;

function end(status) {
  killPrograms();
  process.exit(status);
}

function onLimit() {
  print('FAIL job: its time is over; the kernel log has what the tasks wait for');
  for (const line of stuckTasks()) print(`     ${line}`);
  dumpBlockedTasks();
  finish();
  end(1);
}

const seconds = Number(process.env.VLO_LAB_TIMEOUT ?? 0);
// The host counts from the guest's start.
const uptime = Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]);
const left = Math.max(seconds * LIMIT_SHARE - uptime, 1);
const timer = seconds > 0 && setTimeout(onLimit, left * 1000);
// An error outside of all checks is one check that failed.
const fail = (error) => check('job', () => Promise.reject(error));
process.on('unhandledRejection', (error) => fail(error));
process.on('uncaughtException', (error) => fail(error));
try {
  const { default: action } = await import(`../${job}.mjs`);
  await action(words);
} catch (error) {
  print(error.stack);
  await fail(error);
}
clearTimeout(timer);
end(finish());
