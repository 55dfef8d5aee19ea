/** `vlo gpio`: the lines of a GPIO device that is attached in user space. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { GpioDriver, LineCommands, parseCommand, sayToLines } from '../devices/index.js';
import { VloError } from '../errors.js';
import { askHal } from '../hal/control.js';
import { defaultRunDirectory } from '../hal/run-directory.js';
import type { HalStatus } from '../hal/status.js';
import { DriverLines } from '../present/gpio-lines.js';
import { log, print, RUN_DIR_FLAGS, RUN_DIR_HELP, waitForSignal } from './output.js';

interface GpioOptions {
  readonly name?: string;
  readonly backend?: string;
  readonly runDir?: string;
  readonly json?: boolean;
  readonly edge?: string;
  readonly count?: string;
}

/** An answer, of any command. */
interface Reply {
  readonly lines?: readonly LineReply[];
  readonly values?: readonly number[];
  readonly line?: number;
  readonly name?: string;
  readonly value?: number;
}

interface LineReply {
  readonly line: number;
  readonly name: string;
  readonly direction: string;
  readonly value: number | null;
  readonly trigger: string;
}

export const EDGES: readonly string[] = ['rising', 'falling', 'both'];

/** Adds the command with its four subcommands. */
export function addGpio(program: Command): void {
  const gpio = program
    .command('gpio')
    .description('use the lines of a GPIO device that is attached in user space');
  const add = (name: string, description: string): Command =>
    gpio
      .command(name)
      .description(description)
      .option('--name <name>', 'name of the device (default: the only one of the running HAL)')
      .option('--backend <path>', 'socket of a back end that nobody has attached')
      .option('--json', 'write answers as lines of JSON')
      .option(RUN_DIR_FLAGS, RUN_DIR_HELP);
  add('info', 'list the lines').action((options) => gpioCommand('info', options));
  add('get', 'read lines')
    .argument('<line...>', 'names or numbers')
    .action((lines, options) => gpioCommand(`get ${lines.join(' ')}`, options));
  add('set', 'make lines outputs, and set them')
    .argument('<line=value...>', 'names or numbers, with 0 or 1')
    .action((pairs, options) => gpioCommand(`set ${pairs.join(' ')}`, options));
  add('watch', 'make lines inputs, and tell of their edges until Ctrl-C')
    .argument('<line...>', 'names or numbers')
    .option('--edge <which>', 'rising, falling or both', 'both')
    .option('--count <edges>', 'end after so many')
    .action((lines, options) => {
      if (!EDGES.includes(options.edge)) {
        const message = `--edge takes ${EDGES.join(', ')}, not '${options.edge}'`;
        throw new VloError('VLO_USAGE', message);
      }
      return gpioCommand(`watch ${lines.join(' ')} ${options.edge}`, options);
    });
}

/** Does one command, at whatever has the lines. */
async function gpioCommand(command: string, options: GpioOptions): Promise<void> {
  const { count, json } = options;
  if (count !== undefined && !/^[1-9]\d{0,8}$/.test(count)) {
    throw new VloError('VLO_USAGE', `--count takes a whole number from 1, not '${count}'`);
  }
  let left = count === undefined ? Number.POSITIVE_INFINITY : Number(count);
  const isWatch = command.startsWith('watch');
  const show = (reply: Reply): boolean => {
    const isEdge = reply.line !== undefined;
    if (json === true) print(JSON.stringify(reply));
    else for (const line of textOf(reply, command)) print(line);
    if (isEdge) left -= 1;
    return isWatch && left > 0;
  };
  if (options.backend !== undefined) await askBackEnd(options.backend, command, show);
  else await askSocket(await findSocket(options), command, show);
}

function textOf(reply: Reply, command: string): string[] {
  if (reply.lines !== undefined) {
    return reply.lines.map(({ line, name, direction, value, trigger }) => {
      const shown = name === '' ? 'unnamed' : `"${name}"`;
      const cells = [`${line}`.padStart(3), shown.padEnd(20), direction.padEnd(5), value ?? '?'];
      return `${cells.join(' ')}${trigger === 'none' ? '' : ` ${trigger}`}`;
    });
  }
  if (reply.line !== undefined) {
    const name = reply.name === '' ? '' : ` "${reply.name}"`;
    return [`${reply.value === 1 ? 'rising ' : 'falling'} ${reply.line}${name}`];
  }
  return command.startsWith('get') ? [reply.values!.join(' ')] : [];
}

async function askSocket(
  path: string,
  command: string,
  show: (reply: Reply) => boolean,
): Promise<void> {
  const aborter = new AbortController();
  void waitForSignal().then(() => aborter.abort());
  for await (const reply of sayToLines(path, command, aborter.signal)) {
    if (!show(reply)) return;
  }
  if (!aborter.signal.aborted) {
    throw new VloError('VLO_DISCONNECTED', `the device of '${path}' was taken away`);
  }
}

/** With a driver of its own: what it sets stays set as long as it lives. */
async function askBackEnd(
  path: string,
  command: string,
  show: (reply: Reply) => boolean,
): Promise<void> {
  const driver = await GpioDriver.connect({ path, reconnect: false });
  try {
    const lines = new DriverLines(driver);
    const interrupted = waitForSignal();
    let end: () => void = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const commands = new LineCommands(lines, (reply) => {
      if (!show(reply)) end();
    });
    const understood = parseCommand(lines, command);
    if (understood === null) return;
    const isMore = show(await commands.run(understood));
    if (understood.verb === 'set') log('the lines are held until Ctrl-C');
    if (isMore) await Promise.race([interrupted, ended]);
    else if (understood.verb === 'set') await interrupted;
    commands.close();
  } finally {
    await driver.close();
  }
}

/** The socket of a device that is attached. @throws VloError */
async function findSocket({ name, runDir = defaultRunDirectory() }: GpioOptions): Promise<string> {
  if (name !== undefined && existsSync(join(runDir, name, 'lines'))) {
    return join(runDir, name, 'lines');
  }
  const status = (await askHal(runDir, { command: 'status' })) as HalStatus;
  const devices = status.devices.filter(({ type }) => type === 'gpio');
  const names = devices.map((device) => device.name).join(', ');
  const device = devices.find((other) => (name ?? devices[0]?.name) === other.name);
  if (device === undefined || (name === undefined && devices.length > 1)) {
    const hint = names === '' ? 'the HAL has none' : `choose one with --name: ${names}`;
    throw new VloError('VLO_NAME_UNKNOWN', `which GPIO device is meant? ${hint}`);
  }
  const { presentation, transport } = device;
  if (presentation === null || transport !== 'user') {
    const message = `'${device.name}' is at ${presentation ?? 'no file'}: use gpioinfo, gpioget, gpioset`;
    throw new VloError('VLO_TRANSPORT_UNAVAILABLE', `${message} and gpiomon of libgpiod`);
  }
  return presentation;
}
