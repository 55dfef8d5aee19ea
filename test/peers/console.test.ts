/** Our console under the Linux kernel's own virtio_console, in User-Mode Linux. */

import { createHash, randomBytes } from 'node:crypto';
import { closeSync, constants, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { connect } from 'node:net';
import { expect, test } from 'vitest';
import { setTerminalSize } from '../../src/native/index.ts';
import { type Backend, startVlo } from './support/backend.ts';
import { describeWithPeers } from './support/peers.ts';
import { until, Workspace } from './support/process.ts';
import { runUml } from './support/uml.ts';

const MiB = 1024 * 1024;
const CONSOLE = [{ socket: 'console.sock', virtioId: 3 }];
const MODULES = { modules: ['virtio_console'], timeoutMs: 60_000 };

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

function startConsole(ws: Workspace, words: readonly string[]): Promise<Backend> {
  const args = ['serve', 'console', '--socket-path', ws.path('console.sock'), ...words];
  return startVlo(ws, args, 'console.sock');
}

/** A person at a terminal. */
class Person {
  heard = '';
  readonly fd: number;

  constructor(path: string) {
    const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants;
    this.fd = openSync(path, O_RDWR | O_NOCTTY | O_NONBLOCK);
  }

  private listen(): void {
    const bytes = Buffer.alloc(4096);
    try {
      for (;;) this.heard += bytes.toString('latin1', 0, readSync(this.fd, bytes));
    } catch (error) {
      if ((error as { code?: string }).code !== 'EAGAIN') throw error;
    }
  }

  async hears(pattern: RegExp): Promise<void> {
    await until(`${pattern} after ${JSON.stringify(this.heard)}`, 20_000, () => {
      this.listen();
      return pattern.test(this.heard);
    });
  }

  types(text: string): void {
    writeSync(this.fd, text);
  }

  close(): void {
    closeSync(this.fd);
  }
}

/** A shell on the terminal, as getty and login would give one; and what the size is there. */
const LOGIN = `set -euo pipefail
until [[ -e /dev/hvc0 ]]; do sleep 0.05; done
busybox setsid -c bash -c '
  exec <>"$0" >&0 2>&0; stty sane; stty -echo
  printf "login: "; read -r name; printf "Password: "; read -r word
  [[ $word == secret ]] || exit 3
  printf "Welcome, %s\\n" "$name"
  trap "stty size" WINCH
  while printf "$ "; read -r line || [[ $? -gt 128 ]]; do
    [[ $line == exit ]] && break
    eval "$line"
  done
  echo bye' /dev/hvc0
sleep 1`;

async function converse(ws: Workspace): Promise<void> {
  const person = new Person(ws.path('tty'));
  await person.hears(/login: $/);
  person.types('ada\n');
  await person.hears(/Password: $/);
  person.types('secret\n');
  await person.hears(/Welcome, ada\s+\$ $/);
  person.types('echo $((6 * 7))\n');
  await person.hears(/42\s+\$ $/);
  setTerminalSize(person.fd, { cols: 132, rows: 50 });
  await new Promise((resolve) => setTimeout(resolve, 1000));
  person.types('stty size\n');
  await person.hears(/50 132\s+\$ $/);
  // More than a terminal holds: the kernel does not wait for a slow reader.
  person.types('for i in {1..4000}; do echo "a line of output, $i"; done\n');
  await person.hears(/a line of output, 4000\s+\$ $/);
  for (let i = 1; i <= 4000; i += 1) expect(person.heard).toContain(`a line of output, ${i}\r\n`);
  person.types('exit\n');
  await person.hears(/bye/);
  person.close();
}

describeWithPeers('virtio_console in User-Mode Linux', () => {
  test.each([
    { form: 'one port', words: (tty: string) => ['--path', tty] },
    { form: 'a console port', words: (tty: string) => ['--port', `tty,path=${tty},console`] },
  ])('/dev/hvc0, $form: somebody logs in, and the terminal is resized', async ({ words }) => {
    const ws = new Workspace();
    const backend = await startConsole(ws, words(ws.path('tty')));
    const [{ status, console: said }] = await Promise.all([
      runUml(ws, CONSOLE, LOGIN, MODULES),
      converse(ws),
    ]);
    expect(status, said).toBe(0);
    await backend.stop();
  });

  test('64 MiB through a port, both ways', async () => {
    const ws = new Workspace();
    const [socket, size] = [ws.path('data'), 64 * MiB];
    const backend = await startConsole(ws, [
      ...['--port', `org.example.data,chardev=unix,path=${socket}`],
      ...['--port', `org.example.log,chardev=file,path=${ws.path('log')}`],
    ]);
    const sent = randomBytes(size);
    const heard: Buffer[] = [];
    let heardSize = 0;
    const client = connect(socket);
    client.on('data', (bytes) => {
      heard.push(bytes);
      heardSize += bytes.length;
      if (heardSize === size) client.write(sent);
    });
    const script = `set -euo pipefail
      # The device announces its ports one by one.
      find_port() {
        until grep -lsx "$1" /sys/class/virtio-ports/*/name; do sleep 0.05; done
      }
      data=$(find_port org.example.data | cut -d/ -f5)
      log=$(find_port org.example.log | cut -d/ -f5)
      exec 3<>/dev/$data
      head -c ${size} /dev/urandom >/tmp/data
      cat /tmp/data >&3
      echo "SENT $(sha256sum </tmp/data)"; rm /tmp/data
      echo "HEARD $(head -c ${size} <&3 | sha256sum)"
      for i in {1..100}; do echo "line $i"; done >/dev/$log`;
    const { status, console: said } = await runUml(ws, CONSOLE, script, MODULES);
    expect(status, said).toBe(0);
    expect(/^SENT (\w+)/m.exec(said)?.[1]).toBe(sha256(Buffer.concat(heard)));
    expect(/^HEARD (\w+)/m.exec(said)?.[1]).toBe(sha256(sent));
    const lines = Array.from({ length: 100 }, (_, i) => `line ${i + 1}\n`);
    expect(readFileSync(ws.path('log'), 'utf8')).toBe(lines.join(''));
    client.destroy();
    await backend.stop();
  });
});
