/** `vlo serve TYPE`: one back end, as QEMU's back-end program conventions ask. */
import { type Command, Option } from 'commander';
import { DEVICES } from '../devices/catalog.js';
import { VloError } from '../errors.js';
import {
  type AnyDeviceDefinition,
  DeviceProcess,
  type OptionArgument,
  optionDomain,
  POLL_US_DEFAULT,
  POLL_US_MAX,
} from '../kit/index.js';
import { notifyServiceManager } from '../native/index.js';
import { BackEndServer, type BackEndServerOptions } from '../vhost-user/back-end-server.js';
import { log, waitForSignal } from './output.js';

/** Options that every device type has. */
interface ServeOptions {
  readonly socketPath?: string;
  readonly fd?: string;
  readonly printCapabilities?: boolean;
  readonly packed: boolean;
  readonly inOrder?: boolean;
  readonly pollUs: string;
  readonly trace?: boolean;
  readonly [option: string]: unknown;
}

/** Which way a traced message went, seen from here. */
const ARROW = { frontEnd: '<', backEnd: '>' } as const;

/** Adds the command with one subcommand for each device type. */
export function addServe(program: Command): void {
  const serve = program
    .command('serve')
    .description('serve one device over vhost-user')
    .addHelpText('after', examplesText(DEVICES.flatMap((device) => device.examples ?? [])))
    .argument('[type]', 'type of the device')
    .action((type: string | undefined) => {
      const types = DEVICES.map((device) => device.name).join(', ');
      if (type === undefined) throw new VloError('VLO_USAGE', `name a device type: ${types}`);
      throw new VloError(
        'VLO_DEVICE_UNKNOWN',
        `there is no device type '${type}'; types: ${types}`,
      );
    });
  for (const device of DEVICES) addDevice(serve, device);
}

function examplesText(examples: readonly string[]): string {
  return `\nExamples:\n${examples.map((line) => `  $ ${line}\n`).join('')}`;
}

function addDevice(serve: Command, device: AnyDeviceDefinition): void {
  const command = serve
    .command(device.name)
    .description(device.summary)
    .option('-s, --socket-path <path>', 'Unix socket to listen on')
    .option('--fd <number>', 'listening or connected Unix socket that was handed over')
    .option('--client', 'connect to the socket instead of listening, and again when it is lost')
    .option('--print-capabilities', 'print what this program can do, as JSON, and end');
  for (const argument of Object.values<OptionArgument>(device.arguments)) {
    command.option(argument.flags, argument.description);
  }
  command.option('--no-packed', 'do not offer the packed ring layout');
  if (device.isUnordered !== true) {
    command.option('--in-order', 'offer to complete requests in order');
  }
  command
    .option(
      '--poll-us <number>',
      'longest look at the rings before sleeping, in µs',
      `${POLL_US_DEFAULT}`,
    )
    .option('--trace', 'write every vhost-user message to stderr, decoded')
    .addHelpText('after', examplesText(device.examples ?? []))
    .allowExcessArguments(false)
    .action(async (options: ServeOptions) => {
      if (options.printCapabilities === true) printCapabilities(device);
      else await serveDevice(device, options);
    });
}

/** QEMU's docs/interop/vhost-user.json: other options are ignored. */
function printCapabilities(device: AnyDeviceDefinition): void {
  const type = device.name === 'blk' ? 'block' : device.name;
  const features = device.capabilities ?? [];
  process.stdout.write(`${JSON.stringify({ type, features }, null, 2)}\n`);
}

function wholeNumber(text: string, flag: string, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value <= max)) {
    throw new VloError('VLO_USAGE', `${flag} takes a whole number from 0 to ${max}, not '${text}'`);
  }
  return value;
}

/** Picks the device's own options and turns digits into numbers where its schema wants numbers. */
export function deviceOptions(
  device: AnyDeviceDefinition,
  options: Readonly<Record<string, unknown>>,
): object {
  const own: Record<string, unknown> = {};
  for (const [key, { flags }] of Object.entries<OptionArgument>(device.arguments)) {
    const option = new Option(flags);
    const given = options[option.attributeName()];
    // Commander turns these around: `--no-grab` makes `grab` false, which is true without it.
    const value = option.negate ? given === false : given;
    if (value === undefined) continue;
    const isNumeric = typeof value === 'string' && /^\d+$/.test(value);
    const wantsNumber = optionDomain(device, key).type === 'number';
    own[key] = isNumeric && wantsNumber ? Number(value) : value;
  }
  return own;
}

async function serveDevice(device: AnyDeviceDefinition, options: ServeOptions): Promise<void> {
  const { socketPath, fd } = options;
  if ((socketPath === undefined) === (fd === undefined)) {
    throw new VloError('VLO_USAGE', 'give exactly one of --socket-path and --fd');
  }
  const pollUs = wholeNumber(options.pollUs, '--poll-us', POLL_US_MAX);
  const opened = await DeviceProcess.open(device, deviceOptions(device, options), {
    packed: options.packed,
    inOrder: options.inOrder === true,
    pollUs,
    log,
  });
  const ended = waitForSignal();
  let server: BackEndServer | null = null;
  try {
    server = new BackEndServer(opened, {
      ...(socketPath === undefined ? {} : { path: socketPath }),
      ...(fd === undefined ? {} : { fd: wholeNumber(fd, '--fd', 2 ** 31 - 1) }),
      client: options.client === true,
      log,
      ...(options.trace === true ? { onMessage: await tracer(log) } : {}),
    });
    opened.listener = server;
    await server.start();
    log(`${device.name}: ready on ${socketPath ?? `descriptor ${fd}`}`);
    notifyServiceManager('READY=1');
    await Promise.race([ended, server.ended]);
  } finally {
    await server?.close();
    await opened.close();
  }
}

/** Loaded only where it is asked for: it would cost every start some milliseconds. */
async function tracer(
  log: (line: string) => void,
): Promise<NonNullable<BackEndServerOptions['onMessage']>> {
  const { describe } = await import('../vhost-user/decode.js');
  return (from, bytes, fds) => log(`${ARROW[from]} ${describe(from, bytes, fds)}`);
}
