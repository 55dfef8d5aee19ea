import { describe, expect, test } from 'vitest';
import { VloError } from '../errors.js';
import { countsBetween, readCounts, threadsOf } from './counters.js';
import {
  parseBlockStat,
  parseInterrupts,
  parseProcessTime,
  parseReadBytes,
  parseSystemStat,
  parseTaskStatus,
} from './proc.js';

const STAT = `cpu  83 10 814 630 128 1 41 7 100 0
cpu0 40 0 400 300 60 0 20 0 0 0
intr 20681 138 9 0 0 2
ctxt 14820
btime 1795390929
processes 163
softirq 13125 0 2621
`;

const X86 = `            CPU0       CPU1
   0:        138          0  IO-APIC                  2-edge      timer
  25:          0       3113  PCI-MSIX-0000:00:02.0    1-edge      virtio0-requests
 NMI:          0          0  Non-maskable interrupts
 LOC:       5509       5142  Local timer interrupts
 IWI:          4          3  IRQ work interrupts
 RES:         56         36  Rescheduling interrupts
 CAL:       3160       2944  Function call interrupts
 TLB:         14         13  TLB shootdowns
 ERR:          5
 MIS:          0
`;

const ARM64 = `            CPU0       CPU1
  11:       2005       1945  GICv3                       27 Level     arch_timer
  18:         47          0  GICv3                       36 Level     ttyS0
IPI0:         32         47  Rescheduling interrupts
IPI1:       2024        732  Function call interrupts
IPI5:          4          1  IRQ work interrupts
 Err:          0
`;

const RISCV64 = `            CPU0       CPU1
  10:       4491       4834  RISC-V INTC    5 Edge      riscv-timer
  12:       2422          0  SiFive PLIC   34 Edge      virtio0, virtio4
IPI0:         30         32  Rescheduling interrupts
IPI1:       1129       2305  Function call interrupts
IPI4:          7          8  IRQ work interrupts
`;

describe('/proc', () => {
  test('CPU time is all but idle, waiting, stolen, and the time of guests', () => {
    const busyUs = (83 + 10 + 814 + 1 + 41) * 10_000;
    expect(parseSystemStat(STAT)).toEqual({ busyUs, contextSwitches: 14820, interrupts: 20681 });
  });

  test('a text of another form is told apart', () => {
    expect(() => parseSystemStat('cpu  1 2\n')).toThrow(VloError);
    expect(() => parseProcessTime('1 (x) S')).toThrow(VloError);
    expect(() => parseBlockStat('')).toThrow(VloError);
    expect(() => parseReadBytes('syscr: 1\n')).toThrow(VloError);
  });

  test.each([
    ['x86-64', X86, [10789, 7, 92, 6104, 3140]],
    ['arm64', ARM64, [3950, 5, 79, 2756, 47]],
    ['riscv64', RISCV64, [9325, 15, 62, 3434, 2422]],
  ])('interrupts of %s', (_name, text, [timer, irqWork, reschedule, functionCall, other]) => {
    expect(parseInterrupts(text)).toEqual({ timer, irqWork, reschedule, functionCall, other });
  });

  test('context switches of a thread', () => {
    const text = 'Name:\tnode\nvoluntary_ctxt_switches:\t37\nnonvoluntary_ctxt_switches:\t3\n';
    expect(parseTaskStatus(text)).toEqual({ voluntary: 37, nonvoluntary: 3 });
    expect(parseTaskStatus('Name:\tnode\n')).toEqual({ voluntary: 0, nonvoluntary: 0 });
  });

  test('CPU time of a program with any name', () => {
    const text = '42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 12 30 5 6 20 0 7 0 100';
    expect(parseProcessTime(text)).toBe(420_000);
  });

  test('requests of a disk, and bytes that a process read', () => {
    expect(parseBlockStat('   62612  0  500896  943  40 0 80 9 0 956 943 0 0 0 0 0 0\n')).toBe(
      62652,
    );
    expect(parseReadBytes('rchar: 4148\nwchar: 0\nsyscr: 8\n')).toBe(4148);
  });
});

describe('counters', () => {
  test('this process is counted, and one that is not there is not', () => {
    const before = readCounts({ device: process.pid, adapter: null });
    const counts = countsBetween(before, readCounts({ device: process.pid, adapter: null }));
    expect(counts.adapter).toBeNull();
    expect(counts.device?.cpuUs).toBeGreaterThanOrEqual(0);
    expect(counts.system.contextSwitches).toBeGreaterThanOrEqual(0);
    expect(threadsOf(process.pid)).toContain(process.pid);
    expect(threadsOf(2 ** 22 + 1)).toEqual([]);
  });

  test('a count that went down is 0', () => {
    const system = { busyUs: 5, contextSwitches: 5, interrupts: 5 };
    const interrupts = { timer: 0, irqWork: 0, reschedule: 0, functionCall: 0, other: 0 };
    const process = { cpuUs: 10, voluntary: 8, nonvoluntary: 2 };
    const before = { system, interrupts, device: process, adapter: null };
    const after = { ...before, device: { cpuUs: 30, voluntary: 7, nonvoluntary: 4 } };
    expect(countsBetween(before, after).device).toEqual({
      ...{ cpuUs: 20, voluntary: 0, nonvoluntary: 2 },
    });
  });
});
