/**
 * The program of a device process: one device, or the devices of a group, each on a socket that
 * listens already. The HAL keeps those sockets, so a front end that connects while this process is
 * being replaced just waits for the next.
 *
 * Argument: a {@link DeviceOrder} as JSON. Descriptor 3: one line, when all devices serve.
 */
import { writeSync } from 'node:fs';
import { DEVICES } from '../devices/catalog.js';
import { assert, VloError } from '../errors.js';
import { DeviceProcess } from '../kit/index.js';
import { becomeIoFlusher, signalAtParentDeath } from '../native/index.js';
import { BackEndServer } from '../vhost-user/back-end-server.js';
import { type DeviceOrder, type DeviceTask, READY_FD, READY_LINE } from './device-task.js';

/** Serves the devices until SIGTERM. */
async function serveTasks(tasks: readonly DeviceTask[]): Promise<void> {
  const ended = new Promise<void>((resolve) => process.once('SIGTERM', resolve));
  const running: { device: DeviceProcess; server: BackEndServer }[] = [];
  try {
    for (const { name, type, options, run, fd } of tasks) {
      const log = (line: string): void => void process.stderr.write(`${name}: ${line}\n`);
      const definition = DEVICES.find((candidate) => candidate.name === type);
      assert(definition !== undefined, `no device type '${type}'`);
      const device = await DeviceProcess.open(definition, options, { ...run, log });
      const server = new BackEndServer(device, { fd, log });
      device.listener = server;
      running.push({ device, server });
    }
    for (const { server } of running) await server.start();
    writeSync(READY_FD, READY_LINE);
    await ended;
  } finally {
    for (const { device, server } of running) {
      await server.close();
      await device.close();
    }
  }
}

/** @returns the exit status */
async function main(argument: string): Promise<number> {
  const { parent, tasks } = JSON.parse(argument) as DeviceOrder;
  process.title = `vlo: ${tasks.map(({ name }) => name).join(' ')}`;
  // Without the HAL nobody would ever end this process.
  signalAtParentDeath('SIGTERM');
  if (process.ppid !== parent) return 1;
  becomeIoFlusher();
  try {
    await serveTasks(tasks);
    return 0;
  } catch (error) {
    if (!(error instanceof VloError)) throw error;
    process.stderr.write(`${error.code}: ${error.message}\n`);
    return error.exitStatus;
  }
}

process.exitCode = await main(process.argv[2]!);
