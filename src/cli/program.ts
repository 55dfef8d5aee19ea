/** All commands of `vlo`. Each is a file of its own. */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { RUN_DIR_FLAGS, RUN_DIR_HELP } from './output.js';

function packageVersion(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

/** The program, with the command that is wanted; with all of them where that is not known. */
export async function makeProgram(wanted?: string): Promise<Command> {
  const program = new Command('vlo')
    .description('virtio devices as ordinary processes: vhost-user back ends in TypeScript')
    .version(packageVersion())
    .showHelpAfterError('(see vlo --help)')
    .configureOutput({ writeErr: (text) => process.stderr.write(usageText(text)) })
    .exitOverride();
  await addCommands(program, wanted);
  return program;
}

/**
 * Adds the commands. What a command needs is loaded when it is run: `serve` and `up` are started in
 * numbers, and each module costs a part of a millisecond.
 */
async function addCommands(program: Command, wanted?: string): Promise<void> {
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
    .option('--packed', 'use the packed ring layout, if the back end offers it')
    .option('--queue-size <entries>', 'entries of each queue, a power of two')
    .option('--takeover <seconds>', 'how long requests wait for another adapter (default: 30)')
    .option('--stop <seconds>', 'how long a reset waits for the back end to stop (default: 10)')
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
  if (isHelp(wanted)) (await import('./completion/index.js')).addCompletion(program);
}

/** True where all commands have to be there: for help, for completion, to name them in an error. */
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
