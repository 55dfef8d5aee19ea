#!/usr/bin/env node
/** The `vlo` command. Each subcommand is a file of its own. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { AssertionError, VloError } from '../errors.js';
import { addServe } from './serve.js';

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
    .exitOverride()
    .action(() => program.help({ error: true }));
  addServe(program);
  try {
    await program.parseAsync();
    return 0;
  } catch (error) {
    return report(error);
  }
}

/** Gives commander's messages the form of all others, with their code. */
function usageText(text: string): string {
  return text.replace(/^error: /, 'vlo: VLO_USAGE: ');
}

process.exitCode = await main();
