import { Command } from 'commander';
import { afterEach, expect, test, vi } from 'vitest';
import type { DoctorReport } from '../hal/doctor.js';
import { type Machine, thisMachine } from '../hal/doctor-machine.js';
import { addDoctor, renderTable } from './doctor.js';

afterEach(() => vi.restoreAllMocks());

/** What `vlo doctor` writes, and what it throws. */
async function runDoctor(machine: Machine, ...args: string[]) {
  let output = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    output += text;
    return true;
  });
  const program = new Command('vlo').exitOverride();
  addDoctor(program, machine);
  const error = await program.parseAsync(['doctor', ...args], { from: 'user' }).then(
    () => null,
    (reason: unknown) => reason,
  );
  vi.restoreAllMocks();
  return { output, error };
}

const REPORT: DoctorReport = {
  works: true,
  transports: {
    user: { state: 'partly', ways: ['API', 'socket'] },
    loopback: { state: 'no', ways: [] },
    vduse: { state: 'yes', ways: [] },
  },
  checks: [
    {
      id: 'node',
      group: 'machine',
      title: 'Node.js',
      state: 'yes',
      detail: '20.20.2',
      gives: 'everything',
      command: null,
    },
    {
      id: 'fuse',
      group: 'user transport',
      title: 'FUSE in the kernel',
      state: 'no',
      detail: `a reason ${'that is long '.repeat(10)}indeed`,
      gives: 'disks as files',
      command: 'sudo modprobe fuse',
    },
  ],
};

test('the table', () => {
  expect(renderTable(REPORT, false)).toBe(
    `machine
  yes   Node.js             20.20.2

user transport
  no    FUSE in the kernel  a reason that is long that is long that is long that is long that is
                            long that is long that is long that is long that is long that is long
                            indeed
        gives: disks as files
        add:   sudo modprobe fuse

kernel transports

tools

user: part (API, socket)   loopback: no   vduse: yes`,
  );
});

test('colours change no column', () => {
  const coloured = renderTable(REPORT, true);
  expect(coloured).toContain('\x1b[32myes \x1b[0m');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the sequence that sets colours.
  expect(coloured.replace(/\x1b\[\d+m/g, '')).toBe(renderTable(REPORT, false));
});

test('on this machine: a table of 100 columns, and the same as JSON', async () => {
  const table = await runDoctor(thisMachine());
  expect(table.error).toBeNull();
  const lines = table.output.split('\n').filter((line) => !/^ +add: /.test(line));
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(100);
  expect(table.output).toMatch(/\n\nuser: .*\n$/);
  const json = await runDoctor(thisMachine(), '--json');
  expect(json.error).toBeNull();
  const report = JSON.parse(json.output) as DoctorReport;
  expect(report.works).toBe(true);
  for (const { title } of report.checks) expect(table.output).toContain(`  ${title}`);
});

test('a machine on which nothing works is a failure, after the report', async () => {
  const machine = { ...thisMachine(), tryKoffi: async () => 'no prebuilt file' };
  const { output, error } = await runDoctor(machine, '--json');
  expect((JSON.parse(output) as DoctorReport).works).toBe(false);
  expect(error).toMatchObject({ code: 'VLO_UNSUPPORTED', exitStatus: 1 });
});
