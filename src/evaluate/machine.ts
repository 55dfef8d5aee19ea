/** The machine that is measured, and the versions of what takes part. */
import { execFile } from 'node:child_process';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { releaseField } from '../hal/doctor-commands.js';
import { type Machine, thisMachine } from '../hal/doctor-machine.js';

/** Whether times mean something: on an emulated processor they do not. */
export type ProcessorKind = 'real' | 'virtual' | 'emulated';

/** What the report tells of a machine. */
export interface MachineFacts {
  readonly architecture: string;
  readonly processor: string;
  readonly processorKind: ProcessorKind;
  readonly processorCount: number;
  readonly memoryMiB: number;
  readonly kernel: string;
  readonly distribution: string;
  readonly loadAverage: number;
}

/** Names of architectures as this project writes them. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'x86-64' };
const MIB = 1024 ** 2;
/** Longer than the doctor waits: programs start slowly on an emulated processor. */
const VERSION_LIMIT_MS = 60_000;

/** Boards that QEMU makes up: their processor is emulated, unless it has a maker's name (KVM). */
const QEMU_BOARD = /dummy-virt|riscv-virtio|qemu/i;

/** What kind of processor: from /proc/cpuinfo and the name of the board. */
export function processorKind(cpuInfo: string, board: string): ProcessorKind {
  if (/^model name\s*:.*\bTCG\b/m.test(cpuInfo)) return 'emulated';
  // Arm's part 0x051 of nobody is QEMU's `-cpu max`.
  if (/^CPU implementer\s*:\s*0x00$/m.test(cpuInfo) && /^CPU part\s*:\s*0x051$/m.test(cpuInfo)) {
    return 'emulated';
  }
  if (/^mvendorid\s*:\s*0x0$/m.test(cpuInfo) && QEMU_BOARD.test(board)) return 'emulated';
  if (/^flags\s*:.*\bhypervisor\b/m.test(cpuInfo) || QEMU_BOARD.test(board)) return 'virtual';
  return 'real';
}

/** A name for the processor where the kernel gives one. */
function processorName(cpuInfo: string): string {
  const model = /^model name\s*:\s*(.+)$/m.exec(cpuInfo)?.[1] ?? cpus()[0]?.model;
  if (model !== undefined && model.trim() !== '' && model !== 'unknown') return model.trim();
  const isa = /^isa\s*:\s*([a-z0-9]+)/m.exec(cpuInfo)?.[1];
  const part = /^CPU part\s*:\s*(\S+)/m.exec(cpuInfo)?.[1];
  return isa ?? (part === undefined ? 'unknown' : `part ${part}`);
}

/** Facts about the machine that this process runs on. */
export function machineFacts(machine: Machine = thisMachine()): MachineFacts {
  const cpuInfo = machine.readText('/proc/cpuinfo') ?? '';
  const board = [
    machine.readText('/proc/device-tree/compatible'),
    machine.readText('/sys/class/dmi/id/sys_vendor'),
  ].join(' ');
  return {
    architecture: ARCHITECTURES[machine.architecture] ?? machine.architecture,
    processor: processorName(cpuInfo),
    processorKind: processorKind(cpuInfo, board),
    processorCount: machine.processorCount,
    memoryMiB: Math.round(totalmem() / MIB),
    kernel: release(),
    distribution: releaseField(machine, 'PRETTY_NAME') || 'unknown',
    loadAverage: loadavg()[0],
  };
}

/** First line of what a program says of its version; null when it does not. */
function versionLine(program: string): Promise<string | null> {
  return new Promise((resolve) => {
    execFile(program, ['--version'], { timeout: VERSION_LIMIT_MS }, (error, output) =>
      resolve(error === null ? output.trim().split('\n', 1)[0] : null),
    );
  });
}

/** Versions of the programs and modules that take part; those that are not there are left out. */
export async function versionsOf(
  vlo: string,
  device: string,
  machine: Machine = thisMachine(),
): Promise<Record<string, string>> {
  const modules = ['virtio_loopback', 'vduse', 'null_blk'].map((name) => {
    const version = machine.readText(`/sys/module/${name}/version`)?.trim();
    return [name, version ?? (machine.exists(`/sys/module/${name}`) ? 'loaded' : null)] as const;
  });
  const entries: (readonly [string, string | null])[] = [
    ['virtio-loopback', vlo],
    ['Node.js', machine.nodeVersion],
    ['Linux', release()],
    ['fio', await versionLine('fio')],
    ...(device === 'ours' ? [] : [[device, await versionLine(device)] as const]),
    ...modules,
  ];
  return Object.fromEntries(
    entries.filter((entry): entry is [string, string] => entry[1] !== null),
  );
}
