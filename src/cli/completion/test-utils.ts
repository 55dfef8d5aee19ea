/** Shells that are asked what they would complete. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeProgram } from '../program.js';
import { completionScript } from './index.js';
import type { Shell } from './values.js';

/** Whether this machine has a program. */
export const hasProgram = (name: string): boolean =>
  spawnSync(name, ['--version'], { stdio: 'ignore' }).error === undefined;

/** A folder with the script of a shell, where files may be put to be found. */
export class Completion {
  readonly folder = mkdtempSync(join(tmpdir(), 'vlo-completion-'));
  readonly script: string;

  private constructor(shell: Shell, text: string) {
    this.script = join(this.folder, `vlo.${shell}`);
    writeFileSync(this.script, text);
  }

  static async open(shell: Shell): Promise<Completion> {
    return new Completion(shell, completionScript(await makeProgram(), shell));
  }

  /** Runs a shell in the folder; a failure is one of the test. */
  run(program: string, args: readonly string[], input = '', env: NodeJS.ProcessEnv = {}): string {
    const { stdout, stderr, status, error } = spawnSync(program, args, {
      ...{ cwd: this.folder, input, encoding: 'utf8', timeout: 30_000 },
      env: { PATH: process.env.PATH, HOME: this.folder, TERM: 'dumb', ...env },
    });
    if (status === 0 && stderr === '') return stdout;
    throw error ?? Object.assign(new Error(`${program}: ${status}: ${stderr}`), { stdout });
  }

  close(): void {
    rmSync(this.folder, { recursive: true });
  }
}
