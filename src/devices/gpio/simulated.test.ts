/** The simulated chip as users have it: scripts, a socket for commands, wires, wrong options. */
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { expectNoLeaks } from '../../native/test-utils.js';
import { MockDriver } from '../../testing/index.js';
import { SimulatedChip } from './backend-sim.js';
import { gpio } from './index.js';
import { LineCommands, parseCommand } from './line-commands.js';
import { sayToLines } from './line-socket.js';
import { DIRECTION, GPIO_MSG, GpioIrqRequest, GpioRequest, TRIGGER } from './wire.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-gpio-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

async function ask(driver: MockDriver, type: number, line: number, value = 0): Promise<number[]> {
  const readable = [GpioRequest.encode({ type, gpio: line, value })];
  return [...(await driver.request(0, { readable, writable: [2] })).bytes];
}

/** The first answer to a command. */
async function say(path: string, command: string): Promise<Record<string, unknown>> {
  for await (const reply of sayToLines(path, command)) return reply;
  return expect.fail('no answer');
}

test('a socket drives inputs and tells of outputs', () =>
  expectNoLeaks(async () => {
    const control = join(folder, 'lines');
    const options = { deviceList: 's4', names: 'led, button', control };
    const driver = await MockDriver.open(gpio, options);
    expect(statSync(control).mode & 0o777).toBe(0o600);
    expect(await say(control, 'set button=1 3=0')).toEqual({ values: [1, 0] });
    expect(await ask(driver, GPIO_MSG.GET_VALUE, 1)).toEqual([0, 1]);
    const heard = sayToLines(control, 'watch led both');
    expect((await heard.next()).value).toEqual({ watching: 1 });
    await ask(driver, GPIO_MSG.SET_VALUE, 0, 1);
    await ask(driver, GPIO_MSG.SET_DIRECTION, 0, DIRECTION.OUT);
    expect((await heard.next()).value).toEqual({ line: 0, name: 'led', value: 1 });
    await heard.return(undefined);
    expect(await say(control, 'get 0 button')).toEqual({ values: [1, 1] });
    const { lines } = (await say(control, 'info')) as { lines: object[] };
    expect(lines).toHaveLength(4);
    const led = { line: 0, name: 'led', direction: 'out', value: 1, trigger: 'none' };
    expect(lines[0]).toEqual(led);
    await expect(say(control, 'set lamp=1')).rejects.toThrow(/no line 'lamp'/);
    await expect(say(control, 'dance')).rejects.toThrow(/no command/);
    await driver.close();
    expect(existsSync(control)).toBe(false);
    await expect(say(control, 'info')).rejects.toMatchObject({ code: 'VLO_DISCONNECTED' });
  }));

test('a script is played, round and round', () =>
  expectNoLeaks(async () => {
    const script = join(folder, 'script');
    writeFileSync(script, '# blink\nset 1=1\nwait 5\nset 1=0 # off\n\nwait 5\nagain\n');
    const driver = await MockDriver.open(gpio, { deviceList: 's2', script });
    await ask(driver, GPIO_MSG.SET_IRQ_TYPE, 1, TRIGGER.RISING);
    for (let i = 0; i < 5; i += 1) {
      const readable = [GpioIrqRequest.encode({ gpio: 1 })];
      expect([...(await driver.request(1, { readable, writable: [1] })).bytes]).toEqual([1]);
    }
    await driver.close();
  }));

test('a wire carries what an output drives to an input, with its edges', async () => {
  const chip = new SimulatedChip(3);
  const edges: [number, boolean][] = [];
  chip.onEdge = (line, isRising) => edges.push([line, isRising]);
  const replies: object[] = [];
  const commands = new LineCommands(chip, (reply) => replies.push(reply));
  await commands.say('wire 0 1');
  chip.watch(1, TRIGGER.BOTH);
  chip.setDirection(0, DIRECTION.OUT, 1);
  chip.setValue(0, 0);
  chip.setValue(0, 0);
  expect(edges).toEqual([
    [1, true],
    [1, false],
  ]);
  await commands.say('wire 1 0'); // A ring of wires is no oscillator.
  chip.setValue(0, 1);
  expect(replies).toEqual([{ wired: [0, 1] }, { wired: [1, 0] }]);
  commands.close();
});

test('wires in circles, which a driver makes outputs of, carry what they drive once', async () => {
  const chip = new SimulatedChip(3);
  for (const [from, to] of [
    [0, 1],
    [1, 2],
    [2, 0],
  ] as const)
    chip.wire(from, to);
  for (const line of [0, 1, 2]) expect(chip.setDirection(line, DIRECTION.OUT, 1)).toBe(0);
  for (const line of [0, 1, 2]) expect(chip.setValue(line, 0)).toBe(0);
  expect([0, 1, 2].map((line) => chip.value(line))).toEqual([0, 0, 0]);
  const alone = new SimulatedChip(1);
  alone.wire(0, 0);
  expect([alone.setDirection(0, DIRECTION.OUT, 1), alone.value(0)]).toEqual([0, 1]);
});

test.each(['set', 'set 0', 'set 0=2', 'get', 'watch', 'watch both', 'wait x', 'wire 0', 'get 4'])(
  "'%s' is refused",
  (text) => {
    const chip = new SimulatedChip(4);
    expect(() => parseCommand(chip, text)).toThrow(
      expect.objectContaining({ code: 'VLO_REQUEST_INVALID' }),
    );
  },
);

describe('wrong options say what to do', () => {
  const script = (text: string): string => {
    const path = join(folder, 'script');
    writeFileSync(path, text);
    return path;
  };
  test.each<[string, () => object, RegExp]>([
    ['no lines', () => ({ deviceList: 's0' }), /s1 to s65535/],
    ['too many', () => ({ deviceList: 's65536' }), /s1 to s65535/],
    ['names of a real chip', () => ({ deviceList: '0', names: 'a' }), /--names is for a simulated/],
    ['two chips', () => ({ deviceList: '0:1' }), /a process for each socket/],
    ['more names than lines', () => ({ deviceList: 's1', names: 'a,b' }), /2 names for 1 lines/],
    ['a name twice', () => ({ names: 'a,,a' }), /a name twice/],
    ['a name that is not ASCII', () => ({ names: 'ü' }), /ASCII/],
    ['no such script', () => ({ script: '/nowhere' }), /cannot read '\/nowhere' \(ENOENT\)/],
    ['an error in it', () => ({ script: script('wait 1\nset 9=1') }), /script:2: there is no line/],
    ['a command for sockets', () => ({ script: script('info') }), /'info' is for sockets/],
    ['no wait', () => ({ script: script('set 0=1\nagain') }), /needs a 'wait'/],
    ['no such chip', () => ({ deviceList: '/dev/null' }), /it is no GPIO chip/],
    ['no such path', () => ({ deviceList: '777' }), /'\/dev\/gpiochip777' \(ENOENT\)/],
    ['no such label', () => ({ deviceList: 'my-chip' }), /with the label 'my-chip'/],
  ])('%s', async (_name, options, message) => {
    await expectNoLeaks(() => expect(MockDriver.open(gpio, options())).rejects.toThrow(message));
  });
});
