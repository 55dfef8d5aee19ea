/** Shells that are asked what they would complete. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DEVICES } from '../../devices/catalog.js';
import { RunDirectory } from '../../hal/run-directory.js';
import type { DeviceStatus } from '../../hal/status.js';
import { makeProgram } from '../program.js';
import { completionScript } from './index.js';
import type { Shell } from './values.js';

/** Keys, and the words that they make. */
export const KEY_PRESSES: readonly (readonly [keys: string, words: readonly string[]])[] = [
  ['vlo ser\tbl\t', ['serve', 'blk']],
  ['vlo serve blk --engine th\t', ['serve', 'blk', '--engine', 'threads']],
  ['vlo serve blk -b images/m\t', ['serve', 'blk', '-b', 'images/my disk.img']],
  ['vlo serve blk --serial bl\t', ['serve', 'blk', '--serial', 'bl']],
  ['vlo serve input --no-g\t', ['serve', 'input', '--no-grab']],
  ['vlo attach --transport v\tbl\t', ['attach', '--transport', 'vduse', 'blk']],
  ['vlo gpio wa\tled --edge f\t', ['gpio', 'watch', 'led', '--edge', 'falling']],
  ['vlo help stat\t', ['help', 'status']],
  ['vlo up h\t', ['up', 'hal.yaml']],
  ['vlo restart --run-dir run r\t', ['restart', '--run-dir', 'run', 'rng-1']],
];

/** What the function that stands for `vlo` writes. */
export const asWritten = (words: readonly string[]): string => `<${words.join('><')}>`;

/** Lines of a shell's output that this function wrote. */
export const written = (output: string): string[] =>
  output.split(/\r?\n/).filter((line) => /^<.*>$/.test(line));

/** Presses keys in a zsh at a terminal of its own: the script, then lines of keys. */
export const ZSH_KEYS = `
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "autoload -Uz compinit; compinit -u -D; source $PWD/$1"
zpty -w shell 'vlo() { print -r -- "<\${(j:><:)@}>" }'
for keys in "\${@:2}"; do zpty -w shell "$keys"; done
zpty -w shell exit
while zpty -r shell line; do print -rn -- "$line"; done
`;

/** Lines that are not complete, and what fish shows for them. */
export const FISH_LINES: readonly (readonly [line: string, shown: readonly string[]])[] = [
  ['vlo st', ['status']],
  ['vlo serve ', DEVICES.map(({ name }) => name).sort()],
  ['vlo serve blk --eng', ['--engine']],
  ['vlo serve blk --engine ', ['auto', 'threads']],
  ['vlo serve blk --engine=th', ['--engine=threads']],
  ['vlo serve blk --serial ', []],
  ['vlo serve blk -b images/', ['images/my disk.img']],
  ['vlo attach --transport vduse bl', ['blk']],
  ['vlo attach blk ', []],
  ['vlo gpio watch led --edge f', ['falling']],
  ['vlo gpio wa', ['watch']],
  ['vlo up ', ['hal.yaml', 'images/', 'run/', 'vlo.fish']],
  ['vlo up --run-dir im', ['images/']],
  ['vlo restart --run-dir run ', ['disk0', 'rng-1']],
  ['vlo nonsense ', []],
];

/** Asks fish for all lines; what it shows for each is in a line, with | between. */
export const FISH_ASK = `
source $argv[1]
for line in $argv[2..]
    set -l shown (complete -C $line | string replace -r '\\t.*' '')
    echo (string join '|' -- $shown)
end
`;

/** Files and a run directory, as the keys and lines want them. */
export function furnish(folder: string): void {
  mkdirSync(join(folder, 'images'));
  writeFileSync(join(folder, 'images/my disk.img'), '');
  writeFileSync(join(folder, 'hal.yaml'), '');
  const runDirectory = join(folder, 'run');
  const device = (name: string): DeviceStatus => ({
    name,
    type: 'rng',
    transport: 'user',
    backEnd: { kind: 'own', socket: `${name}.sock`, process: null, group: null },
    presentation: null,
    state: 'ready',
    note: 'a "name": "of" no device',
    ...{ queues: 1, requests: 0, errors: 0, bytesRead: 0, bytesWritten: 0 },
    ...{ restarts: 0, uptimeMs: 0 },
  });
  RunDirectory.open(runDirectory).writeStatus({
    format: 1,
    pid: process.pid,
    runDirectory,
    config: '/hal.yaml',
    devices: [device('disk0'), device('rng-1')],
  });
}

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
    furnish(this.folder);
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
