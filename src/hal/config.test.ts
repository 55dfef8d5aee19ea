/** The file of devices: what is read from it, and that each mistake is named where it stands. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DEVICES } from '../devices/catalog.js';
import { VloError } from '../errors.js';
import { type OptionArgument, parseOptions } from '../kit/index.js';
import { ConfigError, parseConfig } from './config.js';
import { kebabCase, parseDuration, parseSize } from './config-values.js';

const TYPES = `types: ${DEVICES.map(({ name }) => name).join(', ')}`;
const FILE = '/etc/devices/hal.yaml';

const VALID = `devices:
  disk0:  { type: blk, image: disk.img, size: 64MiB, read-only: true, num-queues: 4, serial: X }
  rng0:   { type: rng, transport: user, max-bytes: 1024, filename: seed }
  share0: { type: blk, backend: other.sock }
  can0:   { type: blk, command: [some-daemon, --socket-path, "{socket}"] }
  d:
    { type: blk, blk-file: /x.img, group: small, restart: never, poll-us: 100, packed: false,
      in-order: true }
  e:
    type: blk
    image: "y.img"
    restart: { limit: 5, within: 10s }
`;

/** The mistakes of a text, each as `line:column code message`. */
function problemsOf(text: string): string[] {
  const error = errorOf(() => parseConfig(text, FILE));
  return error.problems.map((p) => `${p.line}:${p.column} ${p.code} ${p.message}`);
}

function errorOf(action: () => unknown): ConfigError {
  try {
    action();
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('no mistake was found');
}

/** The only mistake of one device with these keys; its name stands in 2:3, its keys in line 2. */
function problemOf(keys: string): string {
  const problems = problemsOf(`devices:\n  a: { ${keys} }\n`);
  expect(problems).toHaveLength(1);
  return problems[0];
}

describe('a valid file', () => {
  const { file, devices } = parseConfig(VALID, FILE);
  const byName = new Map(devices.map((device) => [device.name, device]));

  test('keeps the order and the places of the names', () => {
    expect(file).toBe(FILE);
    expect([...byName.keys()]).toEqual(['disk0', 'rng0', 'share0', 'can0', 'd', 'e']);
    expect(byName.get('can0')?.position).toEqual({ line: 5, column: 3 });
  });

  test('a device of ours: options in camel case, paths from the folder of the file', () => {
    expect(byName.get('disk0')).toEqual({
      name: 'disk0',
      type: 'blk',
      transport: 'auto',
      kernel: {},
      group: null,
      source: {
        kind: 'own',
        options: {
          blkFile: '/etc/devices/disk.img',
          readOnly: true,
          numQueues: 4,
          serial: 'X',
        },
        run: {},
      },
      image: {
        path: '/etc/devices/disk.img',
        size: 64 * 1024 * 1024,
        readOnly: true,
        position: { line: 2, column: 31 },
        sizePosition: { line: 2, column: 47 },
      },
      restart: { limit: 20, withinMs: 60_000 },
      position: { line: 2, column: 3 },
    });
    expect(byName.get('rng0')).toMatchObject({
      transport: 'user',
      source: { options: { maxBytes: 1024, filename: '/etc/devices/seed' } },
      image: null,
    });
  });

  test.each(DEVICES.map((device) => [device.name, device] as const))(
    'the paths of %s are those that its options say',
    (type, device) => {
      const args = Object.entries<OptionArgument>(device.arguments);
      const keys = args.filter(([, { isPath }]) => isPath).map(([key]) => key);
      const lines = keys.map((key) => `    ${kebabCase(key)}: x\n`).join('');
      const { devices } = parseConfig(`devices:\n  a:\n    type: ${type}\n${lines}`, FILE);
      const wanted = Object.fromEntries(keys.map((key) => [key, '/etc/devices/x']));
      expect(devices[0]?.source).toMatchObject({ options: wanted });
    },
  );

  test('how a device is run, its group and its restarts', () => {
    expect(byName.get('d')).toMatchObject({
      group: 'small',
      source: {
        options: { blkFile: '/x.img' },
        run: { packed: false, inOrder: true, pollUs: 100 },
      },
      image: { path: '/x.img', size: null, readOnly: false },
      restart: { limit: 0 },
    });
    expect(byName.get('e')?.restart).toEqual({ limit: 5, withinMs: 10_000 });
  });

  test('what a kernel transport is told', () => {
    const words = 'memory: bounce, pool: 2MiB, packed: true, queue-size: 64, takeover: 0, stop: 5s';
    const { devices } = parseConfig(`devices: { a: { type: rng, ${words} } }\n`, FILE);
    expect(devices[0]?.kernel).toEqual({
      ...{ memory: 'bounce', poolSize: 2 * 2 ** 20, packed: true, queueSize: 64 },
      ...{ takeoverMs: 0, stopMs: 5000 },
    });
  });

  test('the back ends of others', () => {
    expect(byName.get('share0')?.source).toEqual({
      kind: 'backend',
      socket: '/etc/devices/other.sock',
    });
    expect(byName.get('can0')?.source).toEqual({
      kind: 'command',
      command: ['some-daemon', '--socket-path', '{socket}'],
    });
  });

  test('the options are those that the devices take', () => {
    for (const { type, source } of devices) {
      const definition = DEVICES.find(({ name }) => name === type);
      if (source.kind === 'own') expect(parseOptions(definition!, source.options)).toBeDefined();
    }
  });

  test('aliases, a byte order mark, carriage returns, and a list of one document', () => {
    const text = '\uFEFF---\r\ndevices:\r\n  a: &a { type: rng }\r\n  b: *a\r\n...\r\n';
    const names = parseConfig(text, FILE).devices.map(({ name, type }) => `${name} ${type}`);
    expect(names).toEqual(['a rng', 'b rng']);
  });

  test('no option of a device hides a key that every device has', () => {
    const common =
      /^(type|transport|group|backend|command|restart|image|size|packed|inOrder|pollUs)$/;
    for (const { options } of DEVICES) {
      expect(Object.keys(options.entries).filter((name) => common.test(name))).toEqual([]);
    }
  });
});

describe('the file as a whole', () => {
  test.each([
    ['an empty file', '', '1:1 VLO_CONFIG_VALUE'],
    ['comments only', '# nothing\n', '1:1 VLO_CONFIG_VALUE'],
    ['a text', 'hello', '1:1 VLO_CONFIG_VALUE'],
    ['a list', '- a\n', '1:1 VLO_CONFIG_VALUE'],
    ['no devices key', '{}', "1:1 VLO_CONFIG_KEY the key 'devices' is missing"],
    [
      'a misspelled one',
      'device:\n  a: { type: rng }\n',
      "1:1 VLO_CONFIG_KEY unknown key 'device'; did you mean 'devices'?",
    ],
    ['no value', 'devices:', "1:9 VLO_CONFIG_VALUE 'devices': a map from names"],
    ['no device', 'devices: {}', "1:10 VLO_CONFIG_VALUE 'devices': a map from names"],
    ['a list of devices', 'devices: [a]', "1:10 VLO_CONFIG_VALUE 'devices': a map from names"],
    ['a tab', 'devices:\n\ta: { type: rng }', '2:1 VLO_CONFIG_SYNTAX'],
    ['a brace that stays open', 'devices: { a: { type: rng }\n', '2:1 VLO_CONFIG_SYNTAX'],
    [
      'two documents',
      'devices: { a: { type: rng } }\n---\nb: 1\n',
      '2:1 VLO_CONFIG_SYNTAX only one document',
    ],
    ['an unknown tag', 'devices: !x { a: { type: rng } }', '1:10 VLO_CONFIG_SYNTAX'],
    ['an alias of nothing', 'devices: { a: *b }', '1:15 VLO_CONFIG_SYNTAX there is no anchor'],
    ['itself', 'devices: &a { a: *a }', '1:15 VLO_CONFIG_KEY'],
    ['a key that is no text', 'devices: { 1: { type: rng } }', '1:12 VLO_CONFIG_KEY a key has to'],
    ['an empty key', 'devices: { ? : { type: rng } }', '1:1'],
    ['a list as key', 'devices: { [a]: { type: rng } }', '1:12 VLO_CONFIG_KEY a key has to'],
    ['a merge key', 'devices: { <<: { type: rng } }', '1:12 VLO_CONFIG_KEY merge keys'],
  ])('%s', (_what, text, expected) => {
    expect(problemsOf(text)[0].slice(0, expected.length)).toBe(expected);
  });

  test('a name twice, and a key twice', () => {
    const text = 'devices:\n  a: { type: rng, type: rng }\n  a: { type: rng }\n';
    expect(problemsOf(text)).toEqual([
      "2:19 VLO_CONFIG_KEY 'type' is given twice, first in line 2",
      "3:3 VLO_CONFIG_KEY 'a' is given twice, first in line 2",
    ]);
  });

  test('all mistakes at once, sorted, one line each', () => {
    const text = 'devices:\n  b: { type: rgn }\n  a: { type: rng, period: 0, packed: 1 }\n';
    const error = errorOf(() => parseConfig(text, 'hal.yaml'));
    expect(error).toBeInstanceOf(VloError);
    expect(error.code).toBe('VLO_DEVICE_UNKNOWN');
    expect(error.exitStatus).toBe(2);
    expect(error.message).toBe(
      [
        `hal.yaml:2:14: VLO_DEVICE_UNKNOWN: there is no device type 'rgn'; did you mean 'rng'? ${TYPES}`,
        "hal.yaml:3:27: VLO_CONFIG_VALUE: 'period': a number of milliseconds of at least 1 is needed, not 0",
        "hal.yaml:3:38: VLO_CONFIG_VALUE: 'packed': true or false is needed, not 1",
      ].join('\n'),
    );
  });

  test('many mistakes do not fill the screen', () => {
    const keys = Array.from({ length: 80 }, (_, i) => `key-${i}: 1`).join(', ');
    const error = errorOf(() => parseConfig(`devices: { a: { type: rng, ${keys} } }`, FILE));
    expect(error.problems).toHaveLength(80);
    expect(error.message.split('\n')).toHaveLength(51);
  });

  test('nothing of the file reaches the terminal as a command', () => {
    const [problem] = problemsOf('devices: { a: { type: "\\e[2J\\n\\x9bq" } }');
    expect(problem).not.toMatch(/\p{Cc}/u);
  });

  test.each(['[', '{a: ', '- ', '? ', 'a:\n', '*a\n', '&a ', '"', '}', '\0', '- *a\n', '<<: '])(
    'megabytes of %j are refused soon, and a part of it',
    (junk) => {
      expect(problemsOf(junk.repeat(10_000_000 / junk.length))[0]).toContain('longer than');
      for (const length of [300, 30_000]) {
        expect(problemsOf(junk.repeat(length / junk.length)).length).toBeGreaterThan(0);
      }
    },
  );

  test('aliases that double at each line cost nothing', () => {
    const lines = Array.from({ length: 40 }, (_, i) => `a${i + 1}: &a${i + 1} [*a${i}, *a${i}]`);
    const text = `a0: &a0 [x]\n${lines.join('\n')}\ndevices: { d: { type: rng, filename: *a40 } }`;
    expect(problemsOf(text).at(-1)).toMatch(/VLO_CONFIG_VALUE/);
    const many = Array.from({ length: 101 }, (_, i) => `  a${i}: *a`).join('\n');
    expect(problemsOf(`devices:\n  a: &a { type: rng }\n${many}`)).toEqual([
      '103:9 VLO_CONFIG_SYNTAX at most 100 aliases are possible',
    ]);
  });
});

describe('a key of a device', () => {
  test.each([
    ['type: rng, imgae: x', '2:19 VLO_CONFIG_KEY unknown key'],
    ['type: blk, imgae: x', "2:19 VLO_CONFIG_KEY unknown key 'imgae'; did you mean 'image'?"],
    [
      'type: rng, readOnly: true',
      "2:19 VLO_CONFIG_KEY unknown key 'readOnly'; keys: type, transport, restart, backend, " +
        'command, memory, pool, packed, queue-size, takeover, stop, group, filename, max-bytes, period, ' +
        'in-order, poll-us',
    ],
    ['tpye: rng', "2:8 VLO_CONFIG_KEY unknown key 'tpye'; did you mean 'type'?"],
    ['period: 1', `2:3 VLO_CONFIG_KEY 'a': 'type' is missing; ${TYPES}`],
    ['type: 5', '2:14 VLO_CONFIG_VALUE'],
    ['type: disk', `2:14 VLO_DEVICE_UNKNOWN there is no device type 'disk'; ${TYPES}`],
    [
      'type: rng, stop: 11min',
      "2:25 VLO_CONFIG_VALUE 'stop': expected 0, or a whole number with ms,",
    ],
    ['type: rng, transport: usr', "2:30 VLO_CONFIG_VALUE 'transport': one of auto, loopback,"],
    ['type: blk', "2:3 VLO_CONFIG_KEY 'a': 'image' is missing: blk needs it"],
    ['type: blk, image: ""', "2:26 VLO_CONFIG_VALUE 'image': a path is needed, not ''"],
    ['type: blk, image: "\\0"', "2:26 VLO_CONFIG_VALUE 'image': a path is needed"],
    [
      'type: blk, image: 5',
      '2:26 VLO_CONFIG_VALUE \'image\': a path is needed, not 5; put it in quotes: "5"',
    ],
    ['type: blk, image: a, blk-file: b', "2:29 VLO_CONFIG_KEY 'blk-file' does not go with 'image'"],
    [
      'type: blk, image: a, serial: 007',
      '2:37 VLO_CONFIG_VALUE \'serial\': a text is needed, not 7; put it in quotes: "007"',
    ],
    ['type: blk, image: a, serial: [1]', "2:37 VLO_CONFIG_VALUE 'serial': a text is needed, not a"],
    ['type: blk, image: a, serial:', "2:37 VLO_CONFIG_VALUE 'serial': a text is needed, not no"],
    ['type: blk, image: a, direct: yes', "2:37 VLO_CONFIG_VALUE 'direct': true or false is needed"],
    [
      'type: blk, image: a, num-queues: "4"',
      "2:41 VLO_CONFIG_VALUE 'num-queues': a number is needed, not '4'; take the quotes away",
    ],
    ['type: blk, image: a, num-queues: 257', "2:41 VLO_CONFIG_VALUE 'num-queues': at most 256"],
    ['type: blk, image: a, size: 0', "2:35 VLO_CONFIG_VALUE 'size': a whole number of bytes"],
    ['type: blk, image: a, size: 1.5G', "2:35 VLO_CONFIG_VALUE 'size': a whole number of bytes"],
    [
      'type: blk, image: a, size: 1kB',
      "2:35 VLO_CONFIG_VALUE 'size': a multiple of 512 bytes is needed, not '1kB'; the next one is 1024",
    ],
    ['type: rng, poll-us: 100001', "2:28 VLO_CONFIG_VALUE 'poll-us': a whole number from 0 to"],
    ['type: rng, group: a/b', "2:26 VLO_CONFIG_VALUE 'group': up to 32 letters"],
    ['type: rng, restart: always', "2:28 VLO_CONFIG_VALUE 'restart': 'never' or { limit: 5,"],
    ['type: rng, restart: { limit: -1 }', "2:37 VLO_CONFIG_VALUE 'limit': a whole number from 0"],
    ['type: rng, restart: { within: 10 }', "2:38 VLO_CONFIG_VALUE 'within': a whole number with"],
    ['type: rng, restart: { within: 25h }', "2:38 VLO_CONFIG_VALUE 'within': a whole number with"],
    ['type: rng, restart: { witin: 1s }', "2:30 VLO_CONFIG_KEY unknown key 'witin'; did you"],
    ['type: rng, backend: x, period: 1', "2:31 VLO_CONFIG_KEY 'period' does not go with 'backend'"],
    ['type: rng, backend: x, group: b', "2:31 VLO_CONFIG_KEY 'group' does not go with 'backend'"],
    ['type: rng, backend: x, restart: never', "2:31 VLO_CONFIG_KEY 'restart' does not go with"],
    ['type: rng, backend: x, command: ["{socket}"]', "2:31 VLO_CONFIG_KEY 'command' does not go"],
    ['type: rng, backend: 5', "2:28 VLO_CONFIG_VALUE 'backend': a path is needed, not 5"],
    ['type: blk, command: ["{socket}"], image: x', "2:42 VLO_CONFIG_KEY 'image' does not go with"],
    ['type: blk, command: x', "2:28 VLO_CONFIG_VALUE 'command': a list is needed"],
    ['type: blk, command: []', "2:28 VLO_CONFIG_VALUE 'command': a list is needed"],
    ['type: blk, command: [x]', '2:28 VLO_CONFIG_VALUE \'command\': "{socket}" is missing'],
    ['type: blk, command: [x, {socket}]', "2:32 VLO_CONFIG_VALUE 'command': a text is needed, not"],
    ['type: blk, command: [x, 5, "{socket}"]', "2:32 VLO_CONFIG_VALUE 'command': a text is needed"],
    ['type: blk, command: ["", "{socket}"]', "2:29 VLO_CONFIG_VALUE 'command': a program is"],
  ])('%s', (keys, expected) => {
    expect(problemOf(keys).slice(0, expected.length)).toBe(expected);
  });

  test.each(['-a', 'a b', 'a/b', '..', 'ä', 'a'.repeat(33)])(
    'a device cannot be named %j',
    (name) => {
      expect(problemsOf(`devices: { "${name}": { type: rng } }`)[0]).toMatch(
        /^1:12 VLO_CONFIG_VALUE/,
      );
    },
  );

  test('a device that is no map', () => {
    expect(problemsOf('devices: { a: rng, b: }')).toEqual([
      "1:15 VLO_CONFIG_VALUE 'a': a map is needed, such as { type: rng }, not 'rng'",
      "1:23 VLO_CONFIG_VALUE 'b': a map is needed, such as { type: rng }, not nothing",
    ]);
  });
});

describe('devices together', () => {
  const disks = (first: string, second: string): string =>
    `devices:\n  a: { type: blk, image: x.img${first} }\n  b: { type: blk, image: ./x.img${second} }\n`;

  test.each([
    ['', ''],
    [', read-only: true', ''],
    ['', ', read-only: true'],
  ])('an image that one of them writes is not shared (%j, %j)', (first, second) => {
    expect(problemsOf(disks(first, second))).toEqual([
      expect.stringMatching(/^3:26 VLO_CONFIG_VALUE .*x\.img' is the image of 'a' already/),
    ]);
  });

  test('readers share an image', () => {
    const text = disks(', read-only: true', ', read-only: true');
    expect(parseConfig(text, FILE).devices).toHaveLength(2);
  });

  test('devices of a group have one limit of restarts', () => {
    const text = `devices:\n  a: { type: rng, group: g }\n  b: { type: rng, group: g, restart: never }\n`;
    expect(problemsOf(text)).toEqual([
      expect.stringMatching(/^3:3 VLO_CONFIG_VALUE .*same 'restart'/),
    ]);
    expect(
      parseConfig(text.replace('group: g }', 'group: g, restart: never }'), FILE),
    ).toBeDefined();
  });
});

describe('values with a unit', () => {
  test.each([
    [512, 512],
    ['512', 512],
    ['512B', 512],
    ['1K', 1024],
    ['64MiB', 67108864],
    ['64 MiB', 67108864],
    ['2G', 2147483648],
    ['1TiB', 1099511627776],
    ['1kB', 1000],
    ['3MB', 3000000],
    ['1TB', 1000000000000],
    [0, null],
    [-512, null],
    [1.5, null],
    [Number.POSITIVE_INFINITY, null],
    ['', null],
    ['MiB', null],
    ['64mib', null],
    ['-1K', null],
    ['1 K K', null],
    ['9007199254740993', null],
    ['9999999999999999T', null],
    ['1constructor', null],
    [null, null],
    [[512], null],
  ])('size %j', (given, expected) => {
    expect(parseSize(given)).toBe(expected);
  });

  test.each([
    ['500ms', 500],
    ['10s', 10_000],
    ['5 min', 300_000],
    ['1h', 3_600_000],
    ['0s', null],
    [10, null],
    ['10', null],
    ['10d', null],
  ])('duration %j', (given, expected) => {
    expect(parseDuration(given)).toBe(expected);
  });
});

describe('any text', () => {
  const lines = VALID.split('\n').map((line) => line.length + 1);
  const junk = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 4 }),
    fc.constantFrom(...'{}[]:,-?&*!|>"\'%@`#~\n\t \0\\'.split('')),
    fc.constantFrom(
      '---\n',
      '&a ',
      '*a',
      '<<: *a',
      '!!str ',
      'null',
      '.nan',
      '\uFEFF',
      '1e999',
      ': ',
    ),
    fc.constantFrom(
      'type: blk',
      'backend: x',
      'restart: ',
      'size: ',
      '__proto__: ',
      'constructor: ',
    ),
  );
  const mutation = fc.record({
    at: fc.nat(VALID.length),
    drop: fc.oneof(fc.nat(4), fc.constantFrom(...lines)),
    insert: junk,
  });

  function check(text: string): void {
    try {
      expect(parseConfig(text, FILE).devices.length).toBeGreaterThan(0);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      expect(error.code).toBe(error.problems[0].code);
      for (const { line, column, message } of error.problems) {
        expect(Math.min(line, column)).toBeGreaterThanOrEqual(1);
        expect(message).toMatch(/^\P{Cc}+$/u);
      }
    }
  }

  test('a valid file with changes is read, or its mistakes are named', () => {
    fc.assert(
      fc.property(fc.array(mutation, { minLength: 1, maxLength: 6 }), (mutations) => {
        let text = VALID;
        for (const { at, drop, insert } of mutations) {
          text = text.slice(0, at) + insert + text.slice(at + drop);
        }
        check(text);
      }),
      { numRuns: 2000 },
    );
  });

  test('junk is named', () => {
    fc.assert(
      fc.property(fc.array(junk, { maxLength: 40 }), (parts) => check(parts.join(''))),
      { numRuns: 1000 },
    );
  });
});
