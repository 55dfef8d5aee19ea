/** The completion scripts, in bash; test/peers/completion.test.ts has those for zsh and fish. */
import { Option } from 'commander';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ATTACHABLE_TYPES } from '../../adapter/attach.js';
import { DEVICES } from '../../devices/catalog.js';
import { VloError } from '../../errors.js';
import { kebabCase } from '../../hal/config-values.js';
import type { OptionArgument } from '../../kit/index.js';
import { makeProgram } from '../program.js';
import { completionScript } from './index.js';
import { asWritten, Completion, hasProgram, KEY_PRESSES, written } from './test-utils.js';
import { allCommands, describeProgram } from './tree.js';
import { KNOWN_PLACES } from './values.js';

const TYPES = DEVICES.map(({ name }) => name);
const COMMANDS = ['up', 'down', 'status', 'restart', 'attach', 'demo', 'gpio', 'serve', 'doctor'];

describe('the command', () => {
  test('another shell is refused', async () => {
    const program = await makeProgram();
    for (const name of ['tcsh', '', 'constructor']) {
      const action = () => completionScript(program, name);
      expect(action).toThrow(VloError);
      expect(action).toThrow(/one of bash, zsh, fish is needed, not '/);
    }
  });

  test('each place that has values of its own is one of the tree', async () => {
    const commands = allCommands(describeProgram(await makeProgram()));
    const places = commands.flatMap(({ path, options, values }) => [
      ...options.flatMap(({ flags }) => flags.map((flag) => [...path.slice(1), flag].join(' '))),
      ...values.map(({ name }) => [...path.slice(1), `<${name}>`].join(' ')),
    ]);
    expect(KNOWN_PLACES.filter((place) => !places.includes(place))).toEqual([]);
  });

  test('options of devices have the flags of their names; those that say path are paths', () => {
    for (const device of DEVICES) {
      for (const [key, argument] of Object.entries<OptionArgument>(device.arguments)) {
        const { flags, isPath = false } = argument;
        expect(new Option(flags).name()).toBe(kebabCase(key));
        expect(isPath, flags).toBe(flags.includes('<path>'));
      }
    }
  });
});

describe('bash', () => {
  let bash: Completion;
  beforeAll(async () => {
    bash = await Completion.open('bash');
  });
  afterAll(() => bash.close());

  /** What bash would show behind these words, of which the last one is not complete. */
  function complete(...words: string[]): string[] {
    const lines = [
      'source "$0"; COMP_WORDS=(vlo "$@"); COMP_CWORD=$#; _vlo',
      // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell fills it in.
      '((${#COMPREPLY[@]} == 0)) || printf "%s\\n" "${COMPREPLY[@]}"',
    ];
    const options = ['--norc', '--noprofile', '-c', lines.join('\n'), bash.script, ...words];
    const env = { XDG_RUNTIME_DIR: `${bash.folder}/nothing` };
    return bash.run('bash', options, '', env).split('\n').slice(0, -1);
  }

  test('its syntax is right, and the function is registered', () => {
    expect(bash.run('bash', ['-n', bash.script])).toBe('');
    const words = ['--norc', '--noprofile', '-c', 'source "$0"; complete -p vlo', bash.script];
    expect(bash.run('bash', words)).toBe('complete -F _vlo vlo\n');
  });

  test('commands', () => {
    expect(complete('')).toEqual(expect.arrayContaining([...COMMANDS, 'completion', 'help']));
    expect(complete('st')).toEqual(['status']);
    expect(complete('gpio', '')).toEqual(['info', 'get', 'set', 'watch', 'help']);
    expect(complete('bench', 'tr')).toEqual(['transports']);
    expect(complete('help', 're')).toEqual(['restart']);
    expect(complete('completion', '')).toEqual(['bash', 'zsh', 'fish']);
    expect(complete('-')).toEqual(['-V', '--version', '-h', '--help']);
  });

  test('types of devices', () => {
    expect(complete('serve', '')).toEqual(TYPES);
    expect(complete('serve', 'co')).toEqual(['console']);
    expect(complete('attach', '')).toEqual(ATTACHABLE_TYPES);
    // The type is there; a second one does not fit.
    expect(complete('attach', 'blk', '')).toEqual([]);
    expect(complete('attach', '--backend', 'b.sock', '--packed', 'bl')).toEqual(['blk']);
  });

  test.each(DEVICES.map((device) => [device.name, device] as const))('options of %s', (name, d) => {
    const flags = Object.values<{ flags: string }>(d.arguments).flatMap(
      ({ flags }) => flags.match(/(?<![\w-])--?[a-z][a-z-]*/g) ?? [],
    );
    const shown = complete('serve', name, '-');
    expect(shown).toEqual(expect.arrayContaining([...flags, '--socket-path', '--trace', '--help']));
    expect(shown).not.toContain(name === 'blk' ? '--filename' : '--blk-file');
  });

  test('choices', () => {
    expect(complete('serve', 'blk', '--engine', '')).toEqual(['auto', 'threads']);
    expect(complete('serve', 'console', '-c', 's')).toEqual(['stdio']);
    expect(complete('serve', 'input', '--profile', 't')).toEqual(['tablet', 'touchscreen']);
    expect(complete('attach', 'blk', '--transport', 'v')).toEqual(['vduse']);
    expect(complete('gpio', 'watch', 'led', '--edge', '')).toEqual(['rising', 'falling', 'both']);
    // bash cuts words at the equals sign, unless its user has told it not to.
    expect(complete('serve', 'blk', '--engine', '=', 'th')).toEqual(['threads']);
    expect(complete('serve', 'blk', '--engine', '=')).toEqual(['auto', 'threads']);
    expect(complete('serve', 'blk', '--engine=th')).toEqual(['--engine=threads']);
    expect(complete('serve', 'blk', '--engine', '=', 'auto', '--di')).toEqual(['--direct']);
  });

  test('what nobody knows is not guessed, and is no command', () => {
    expect(complete('serve', 'blk', '--serial', '')).toEqual([]);
    expect(complete('serve', 'rng', '--max-bytes', '')).toEqual([]);
    expect(complete('attach', '--name', 'blk', 'bl')).toEqual(['blk']);
    expect(complete('serve', 'console', '--port', 'a', 'b', '')).toEqual([]);
    expect(complete('serve', 'console', '--port', 'a', 'b', '--tr')).toEqual(['--trace']);
    expect(complete('up', '--', '-')).toEqual([]);
    expect(complete('nonsense', '')).toEqual([]);
  });

  test('files and folders', () => {
    expect(complete('serve', 'blk', '--blk-file', 'im')).toEqual(['images']);
    expect(complete('serve', 'blk', '-b', 'images/')).toEqual(['images/my disk.img']);
    expect(complete('serve', 'blk', '--blk-file', '=', 'ha')).toEqual(['hal.yaml']);
    expect(complete('serve', 'rng', '--socket-path', 'hal')).toEqual(['hal.yaml']);
    expect(complete('serve', 'input', '--script', 'hal')).toEqual(['hal.yaml']);
    expect(complete('up', 'h')).toEqual(['hal.yaml']);
    expect(complete('up', '--run-dir', '')).toEqual(expect.arrayContaining(['images', 'run']));
    expect(complete('up', '--run-dir', 'h')).toEqual([]);
    expect(complete('bench', 'report', 'one.json', 'h')).toEqual(['hal.yaml']);
  });

  test('devices of a running HAL', () => {
    expect(complete('restart', '--run-dir', 'run', '')).toEqual(['disk0', 'rng-1']);
    expect(complete('restart', '--run-dir', '=', '~/run', 'r')).toEqual(['rng-1']);
    expect(complete('gpio', 'get', '--run-dir', 'run', '--name', 'd')).toEqual(['disk0']);
    expect(complete('restart', '--run-dir', 'images', '')).toEqual([]);
  });

  test('key presses', (context) => {
    if (!hasProgram('script')) return context.skip('the program script is not here');
    const keys = [
      `source vlo.bash; vlo() { printf '<%s' "$1"; printf '><%s' "\${@:2}"; echo '>'; }`,
      ...KEY_PRESSES.map(([line]) => line),
      // bash cuts words at the equals sign.
      'vlo serve blk --engine=th\t--blk-f\timages/m\t',
      'exit',
    ];
    const shell = ['-qec', 'bash --norc --noprofile -i', '/dev/null'];
    const env = { INPUTRC: '/dev/null' };
    const text = bash.run('script', shell, keys.map((line) => `${line}\n`).join(''), env);
    const more = ['serve', 'blk', '--engine=threads', '--blk-file', 'images/my disk.img'];
    expect(written(text)).toEqual([...KEY_PRESSES.map(([, words]) => words), more].map(asWritten));
  });
});
