/** The console device: terminals, and named ports for programs on both sides. */
import * as v from 'valibot';
import { defineDevice } from '../../kit/index.js';
import { VIRTIO_ID } from '../../virtio/index.js';
import { BACKENDS, type PortEnd, type PortEvents, type PortSpec } from './backend.js';
import { FileEnd } from './backend-file.js';
import { NullEnd } from './backend-null.js';
import { PtyEnd } from './backend-pty.js';
import { StdioEnd } from './backend-stdio.js';
import { UnixEnd } from './backend-unix.js';
import { ConsoleDevice } from './device.js';
import { checkPort, checkPorts, parsePort, parseTerminalSize } from './options.js';
import { PORT_COUNT_MAX } from './wire.js';

/** Opens the host's end of a port. @throws VloError VLO_PORT_ACCESS, VLO_SOCKET_IN_USE */
function openEnd({ backend, path }: PortSpec, events: PortEvents): PortEnd {
  if (backend === 'pty') return new PtyEnd(path, events);
  if (backend === 'unix') return new UnixEnd(path!, events);
  if (backend === 'stdio') return new StdioEnd(events);
  if (backend === 'file') return new FileEnd(path!, events);
  return new NullEnd(events);
}

/** `vlo serve console`. */
export const consoleDevice = defineDevice({
  name: 'console',
  summary: 'a terminal, or named ports for programs on both sides',
  virtioId: VIRTIO_ID.console,
  options: v.object({
    chardev: v.optional(v.picklist(BACKENDS, `one of ${BACKENDS.join(', ')} is needed`), 'pty'),
    path: v.optional(v.string('a path is needed')),
    port: v.optional(
      v.pipe(
        v.array(v.string('a text is needed'), 'a list of texts is needed'),
        v.maxLength(PORT_COUNT_MAX, `at most ${PORT_COUNT_MAX} ports are possible`),
      ),
      [],
    ),
    terminalSize: v.optional(
      v.pipe(
        v.string('a size such as 80x24 is needed'),
        v.check((text) => parseTerminalSize(text) !== null, 'a size such as 80x24 is needed'),
      ),
      '80x24',
    ),
  }),
  arguments: {
    chardev: {
      flags: '-c, --chardev <name>',
      description: 'the other end of the only port: pty (default), unix, stdio, file or null',
    },
    path: {
      flags: '--path <path>',
      description: 'socket of unix, file of file, or a link to the terminal of pty',
      isPath: true,
    },
    port: {
      flags: '-p, --port <port...>',
      description: 'instead, ports: a name, then ,chardev= ,path= and ,console as wanted',
    },
    terminalSize: {
      flags: '--terminal-size <columns>x<rows>',
      description: 'size of a terminal that does not know its own (default: 80x24)',
    },
  },
  examples: [
    'vlo serve console --socket-path /tmp/console.sock --path /tmp/tty # then: screen /tmp/tty',
    'vlo serve console --socket-path /tmp/ports.sock --port agent,chardev=unix,path=/tmp/agent.sock',
  ],
  queues: [
    { name: 'receiveq', kind: 'supply' },
    { name: 'transmitq' },
    { name: 'controlReceiveq', kind: 'supply' },
    { name: 'controlTransmitq' },
  ],
  open({ chardev, path = null, port, terminalSize }, host) {
    const isMultiport = port.length > 0;
    const only: PortSpec = { name: '', backend: chardev, path, isConsole: true };
    const ports = isMultiport ? checkPorts(port.map(parsePort)) : [checkPort('--chardev', only)];
    const size = parseTerminalSize(terminalSize)!;
    return new ConsoleDevice({ ports, isMultiport, size, openEnd }, host).open();
  },
});
