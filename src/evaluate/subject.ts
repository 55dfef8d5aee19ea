/** A transport with a device behind it, brought up: device process, adapter, node. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VloError } from '../errors.js';
import type { Processes } from './counters.js';
import { HWRNG, listGenerators, newGenerator } from './hwrng.js';
import { fill, NullBlock } from './null-block.js';
import type { BenchOptions } from './options.js';
import type { AttachChoice, TransportPlan, Workload } from './plan.js';
import { commandText, Program } from './programs.js';

export type DeviceKind = Workload['work']['kind'];

/** Slow processors that are emulated on a busy machine: Node alone takes seconds to start. */
const READY_MS = 90_000;

export interface Surroundings {
  readonly options: BenchOptions;
  /** Words that start `vlo`. */
  readonly vlo: readonly string[];
  /** Folder for images and sockets. */
  readonly folder: string;
  /** Ids for names that are in the kernel, so that two runs do not meet. */
  readonly tag: string;
}

export interface Subject {
  readonly plan: TransportPlan;
  readonly kind: DeviceKind;
  /** What applications open. */
  readonly node: string;
  /** Name of the generator among the kernel's; null for a disk. */
  readonly generator: string | null;
  readonly processes: Processes;
  /** How all this is brought up by hand. */
  readonly commands: readonly string[];
  close(): Promise<void>;
}

/** The device process, the same whatever the transport. */
function deviceCommand(
  kind: DeviceKind,
  { vlo, options }: Surroundings,
  socket: string,
  image: string,
): { command: string[]; pidFile: string | null } {
  if (kind === 'rng') {
    return { command: [...vlo, 'serve', 'rng', '--socket-path', socket], pidFile: null };
  }
  if (options.device === 'ours') {
    const args = [
      '--socket-path',
      socket,
      '--blk-file',
      image,
      '--num-queues',
      `${options.queues}`,
    ];
    return { command: [...vlo, 'serve', 'blk', ...args], pidFile: null };
  }
  const pidFile = `${socket}.pid`;
  const command = [
    ...['qemu-storage-daemon', '--pidfile', pidFile, '--object', 'iothread,id=io', '--blockdev'],
    `driver=file,node-name=file,filename=${image},cache.direct=off,aio=io_uring,locking=off`,
    ...['--blockdev', 'driver=raw,file=file,node-name=disk', '--export'],
    `type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=${options.queues},` +
      `iothread=io,addr.type=unix,addr.path=${socket}`,
  ];
  return { command, pidFile };
}

function adapterCommand(
  kind: DeviceKind,
  { transport, memory }: AttachChoice,
  { vlo, folder }: Surroundings,
  socket: string,
  name: string,
): string[] {
  const args = ['--backend', socket, '--transport', transport, '--name', name];
  const memoryArgs = memory === null ? [] : ['--memory', memory];
  return [...vlo, 'attach', kind, ...args, ...memoryArgs, '--run-dir', join(folder, 'run')];
}

/** The same way from fio to the driver for all disks; null where the kernel keeps its own. */
function setScheduler(node: string): void {
  try {
    writeFileSync(`/sys/block/${basename(node)}/queue/scheduler`, 'none');
  } catch {
    // It has none to choose among.
  }
}

function exists(path: string): true | null {
  try {
    readFileSync(path);
    return true;
  } catch {
    return null;
  }
}

async function nullBlock(plan: TransportPlan, { options, tag }: Surroundings): Promise<Subject> {
  const disk = new NullBlock(`vlo-${tag}`, options.size, options.queues);
  await disk.open(options.size);
  setScheduler(disk.node);
  return {
    ...{ plan, kind: 'blk', node: disk.node, generator: null, commands: disk.commands },
    processes: { device: null, adapter: null },
    close: async () => disk.close(),
  };
}

/** Waits until the adapter has a node to show. */
async function nodeOf(kind: DeviceKind, adapter: Program): Promise<string> {
  const shown = await adapter.waitFor(/ready(?: at (\/dev\/\S+))?/, READY_MS);
  if (kind === 'rng') return HWRNG;
  if (!shown.startsWith('/dev/')) throw adapter.failure('it names no disk below /dev');
  setScheduler(shown);
  return shown;
}

/**
 * Brings a transport up.
 * @throws VloError VLO_BENCH_FAILED, with what the process that failed wrote
 */
export async function bringUp(
  plan: TransportPlan,
  kind: DeviceKind,
  surroundings: Surroundings,
): Promise<Subject> {
  if (plan.attach === null) return nullBlock(plan, surroundings);
  const { folder, options, tag } = surroundings;
  const name = `${kind}-${plan.id}-${tag}`;
  const socket = join(folder, `${kind}-${plan.id}.sock`);
  const image = join(folder, `${plan.id}.img`);
  mkdirSync(join(folder, 'run'), { recursive: true });
  if (kind === 'blk') {
    writeFileSync(image, '');
    fill(image, options.size);
  }
  const running: Program[] = [];
  // The adapter first: it takes the device from the kernel while the device process still serves.
  const close = async (): Promise<void> => {
    for (const program of running.toReversed()) await program.stop();
  };
  const launch = (command: readonly string[]): Program => {
    const program = new Program(command);
    running.push(program);
    return program;
  };
  try {
    const { command, pidFile } = deviceCommand(kind, surroundings, socket, image);
    const device = launch(command);
    if (pidFile === null) await device.waitFor(/ready on/, READY_MS);
    else await device.until(() => exists(pidFile), READY_MS);
    const generators = listGenerators();
    const adapter = launch(adapterCommand(kind, plan.attach, surroundings, socket, name));
    const node = await nodeOf(kind, adapter);
    return {
      ...{ plan, kind, node, close },
      generator: kind === 'rng' ? await newGenerator(generators) : null,
      processes: { device: device.pid, adapter: adapter.pid },
      commands: [command, adapter.command].map(commandText),
    };
  } catch (error) {
    await close();
    throw error instanceof VloError
      ? error
      : new VloError('VLO_BENCH_FAILED', `${plan.title}: ${(error as Error).message}`);
  }
}
