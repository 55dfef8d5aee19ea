#!/usr/bin/env node
/** The `vlo` command. Each subcommand is a file of its own. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { AssertionError, VloError } from '../errors.js';
import { RUN_DIR_FLAGS, RUN_DIR_HELP } from './output.js';

function packageVersion(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

/** Writes an error as users see it and returns the exit status it asks for. */
function report(error: unknown): number {
  if (error instanceof CommanderError) {
    // Commander has written its own text; its status is 0 for help and version.
    return error.exitCode === 0 ? 0 : 2;
  }
  if (error instanceof VloError) {
    process.stderr.write(`vlo: ${error.code}: ${error.message}\n`);
    return error.exitStatus;
  }
  const isBug = error instanceof AssertionError || !(error instanceof Error);
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`vlo: ${isBug ? 'bug' : 'unexpected error'}, please report it: ${text}\n`);
  return 1;
}

async function main(): Promise<number> {
  const program = new Command('vlo')
    .description('virtio devices as ordinary processes: vhost-user back ends in TypeScript')
    .version(packageVersion())
    .showHelpAfterError('(see vlo --help)')
    .configureOutput({ writeErr: (text) => process.stderr.write(usageText(text)) })
    .exitOverride();
  await addCommands(program);
  try {
    await program.parseAsync();
    return 0;
  } catch (error) {
    return report(error);
  }
}

/**
 * Adds the commands. What a command needs is loaded when it is run: `serve` and `up` are started in
 * numbers, and each module costs a part of a millisecond.
 */
async function addCommands(program: Command): Promise<void> {
  const wanted = process.argv[2];
  program
    .command('up')
    .description('bring up all devices of a file, and stay with them until Ctrl-C')
    .argument('[file]', 'file of devices', 'hal.yaml')
    .option(RUN_DIR_FLAGS, RUN_DIR_HELP)
    .action(async (file, options) => (await import('./up.js')).up(file, options));
  program
    .command('down')
    .description('take a running HAL down')
    .option(RUN_DIR_FLAGS, RUN_DIR_HELP)
    .action(async (options) => (await import('./hal-commands.js')).down(options));
  program
    .command('status')
    .description('show the devices of a running HAL')
    .option('--json', 'write the status as JSON')
    .option(RUN_DIR_FLAGS, RUN_DIR_HELP)
    .action(async (options) => (await import('./hal-commands.js')).status(options));
  program
    .command('restart')
    .description('have the process of a device replaced; its requests wait meanwhile')
    .argument('<name>', 'name of the device')
    .option(RUN_DIR_FLAGS, RUN_DIR_HELP)
    .action(async (name, options) => (await import('./hal-commands.js')).restart(name, options));
  program
    .command('attach')
    .description('attach a vhost-user back end that somebody else runs')
    .argument('<type>', 'type of the device')
    .option('--backend <path>', 'socket of the back end (required)')
    .option('--transport <name>', 'auto, loopback, vduse or user', 'auto')
    .option('--name <name>', 'name of the device, and of its folder in the run directory')
    .option('--memory <how>', "'bounce' copies buffers, 'direct' shares all memory of this machine")
    .option('--pool-size <size>', 'memory for rings and copied buffers, such as 64MiB')
    .option('--packed', 'offer the packed ring layout')
    .option('--queue-size <entries>', 'entries of each queue, a power of two')
    .option('--takeover <seconds>', 'how long requests wait for another adapter (default: 30)')
    .option(RUN_DIR_FLAGS, RUN_DIR_HELP)
    .action(async (type, options) => (await import('./attach.js')).attachCommand(type, options));
  program
    .command('demo')
    .description('use a disk and an entropy source, kill them, verify everything, clean up')
    .option('--keep', 'keep the folder with the image of the disk')
    .allowExcessArguments(false)
    .action(async (options) => (await import('./demo.js')).demo(options));
  if (wanted === 'gpio' || isHelp(wanted)) (await import('./gpio.js')).addGpio(program);
  if (wanted === 'serve' || isHelp(wanted)) (await import('./serve.js')).addServe(program);
  if (wanted === 'doctor' || isHelp(wanted)) (await import('./doctor.js')).addDoctor(program);
  if (wanted === 'bench' || isHelp(wanted)) {
    (await import('./bench.js')).addBench(program, packageVersion());
  }
}

/** True where all commands have to be there: for help, and to name them in an error. */
function isHelp(wanted: string | undefined): boolean {
  return (
    wanted === undefined ||
    !/^(serve|gpio|doctor|bench|up|down|status|restart|attach|demo|--version|-V)$/.test(wanted)
  );
}

/** Gives commander's messages the form of all others, with their code. */
function usageText(text: string): string {
  return text.replace(/^error: /, 'vlo: VLO_USAGE: ');
}

process.exitCode = await main();
