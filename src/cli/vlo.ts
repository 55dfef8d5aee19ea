#!/usr/bin/env node
/** The `vlo` command: runs one, and gives each error its text and its status. */
import { CommanderError } from 'commander';
import { AssertionError, VloError } from '../errors.js';
import { makeProgram } from './program.js';

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
  const program = await makeProgram(process.argv[2]);
  try {
    await program.parseAsync();
    return 0;
  } catch (error) {
    return report(error);
  }
}

process.exitCode = await main();
