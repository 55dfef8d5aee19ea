import { describe, expect, test } from 'vitest';
import { checkAnyTransport, missingOf } from './available.js';
import { machineFacts, processorKind } from './machine.js';
import { TRANSPORTS } from './plan.js';
import { commandText, Program } from './programs.js';

describe('the machine', () => {
  test.each([
    ['emulated', 'model name\t: QEMU TCG CPU version 2.5+\nflags\t\t: fpu hypervisor\n', 'QEMU'],
    ['emulated', 'CPU implementer\t: 0x00\nCPU part\t: 0x051\n', 'linux,dummy-virt'],
    ['emulated', 'isa\t\t: rv64imafdcvh\nmvendorid\t: 0x0\n', 'riscv-virtio'],
    ['virtual', 'model name\t: AMD EPYC\nflags\t\t: fpu hypervisor\n', 'Amazon EC2'],
    ['virtual', 'CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n', 'linux,dummy-virt'],
    ['real', 'CPU implementer\t: 0x41\nCPU part\t: 0xd08\n', 'raspberrypi,4-model-b'],
    ['real', 'model name\t: AMD Ryzen\nflags\t\t: fpu\n', 'ASUS'],
    ['real', 'mvendorid\t: 0x489\n', 'sifive,unmatched'],
  ])('%s processors', (kind, cpuInfo, board) => {
    expect(processorKind(cpuInfo, board)).toBe(kind);
  });

  test('this one', () => {
    const facts = machineFacts();
    expect(facts.processorCount).toBeGreaterThan(0);
    expect(facts.memoryMiB).toBeGreaterThan(0);
    expect(facts.processor).not.toBe('');
  });
});

describe('what is missing', () => {
  const check = {
    id: 'vduse',
    state: 'no',
    detail: 'not there',
    command: 'modprobe vduse',
  } as const;
  const missing = { reason: 'not there', enable: 'modprobe vduse' };

  test('is what the doctor says', () => {
    expect(missingOf([check], 'vduse')).toEqual(missing);
    expect(missingOf([{ ...check, state: 'partly' }], 'vduse')).toEqual(missing);
    expect(missingOf([{ ...check, state: 'yes' }], 'vduse')).toBeNull();
    expect(missingOf([], 'vduse')?.reason).toContain('vduse');
  });

  test('an error where no kernel transport is left, with what helps', () => {
    const states = new Map(TRANSPORTS.map(({ id }) => [id, missing] as const));
    const message = /^no kernel transport .*direct and VDUSE: not there \(modprobe vduse\)$/;
    expect(() => checkAnyTransport(TRANSPORTS, states)).toThrow(message);
    const ceiling = new Map([...states, ['null_blk', null] as const]);
    expect(() => checkAnyTransport(TRANSPORTS, ceiling)).toThrow(message);
    const vduse = new Map([...states, ['vduse', null] as const]);
    expect(() => checkAnyTransport(TRANSPORTS, vduse)).not.toThrow();
    // Who asks for the ceiling alone gets it.
    const alone = TRANSPORTS.filter(({ id }) => id === 'null_blk');
    expect(() => checkAnyTransport(alone, ceiling)).not.toThrow();
  });
});

describe('programs', () => {
  test('a command as one types it', () => {
    expect(commandText(['a', '--b=c/d', "it's", ''])).toBe(`a --b=c/d 'it'\\''s' ''`);
  });

  test('a line is waited for, and the program ended', async () => {
    const program = new Program(['sh', '-c', 'echo "vlo: blk: ready at /dev/vdz" >&2; sleep 60']);
    expect(await program.waitFor(/ready(?: at (\/dev\/\S+))?/, 20_000)).toBe('/dev/vdz');
    await program.stop();
    expect(program.isRunning).toBe(false);
  });

  test('a program that ends early tells why', async () => {
    const program = new Program(['sh', '-c', 'echo no such thing >&2; exit 3']);
    await expect(program.waitFor(/ready/, 20_000)).rejects.toThrow('ended early: no such thing');
    expect(await program.finish(1000)).toBe(3);
  });

  test('a program that is not there', async () => {
    const program = new Program(['/nowhere/program']);
    await expect(program.waitFor(/ready/, 20_000)).rejects.toThrow('ENOENT');
  });
});
