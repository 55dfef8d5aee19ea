/**
 * The program of {@link lookAtSpeed} on a disk's file: an application in a process of its own, with
 * ordinary system calls. Writes its rows as JSON.
 *
 *   node demo-probe.js FILE
 */
import { constants, openSync, readSync, writeSync } from 'node:fs';
import { lookAtSpeed } from './demo-speed.js';

const path = process.argv[2]!;
const { O_DIRECT, O_RDWR } = constants;
const fd = openSync(path, O_RDWR | O_DIRECT);
const rows = await lookAtSpeed({
  write: (offset, bytes) => writeSync(fd, bytes, 0, bytes.length, offset),
  read: (offset, bytes) => readSync(fd, bytes, 0, bytes.length, offset),
});
process.stdout.write(JSON.stringify(rows));
